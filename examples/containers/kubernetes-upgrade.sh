#!/bin/sh
# Upgrades the pods of kubernetes.yaml in place, one after the other, to the release in a file app.py. The first pod whose
# upgrade fails is the last one: it still serves the old release, and so do the pods after it. Then apply the old release
# again, since a pod that starts anew has no other one.
set -eu
release=${1:?usage: kubernetes-upgrade.sh app.py}
kubectl create configmap app-release --from-file=app.py="$release" --dry-run=client --output=yaml |
    kubectl apply --filename=-
for pod in $(kubectl get pods --selector=app=app --field-selector=status.phase=Running --output=name); do
    # The kubelet updates mounted ConfigMaps about once a minute.
    until kubectl exec "$pod" -- cat /srv/app/app.py | cmp -s - "$release"; do sleep 2; done
    kubectl exec "$pod" -- psflip upgrade --wait drained
done
