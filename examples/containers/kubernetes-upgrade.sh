#!/bin/sh
# Upgrades the pods of kubernetes.yaml in place, one after the other, to the release in a file app.py. Pods that are gone
# or terminating are skipped. At the first failed upgrade the script puts the old release back into the ConfigMap, since
# a pod that starts anew has no other one, and exits with 1. That pod and those after it still serve the old release;
# those before it serve the new one, until this script runs with the old one. TRIES=N limits the wait for a new file to
# N times 2 s.
set -eu
release=${1:?usage: kubernetes-upgrade.sh app.py}

apply() {
    kubectl create configmap app-release --from-file=app.py="$1" --dry-run=client --output=yaml |
        kubectl apply --filename=-
}

fail() {
    trap '' HUP INT TERM
    echo "$1; the old release goes back into the ConfigMap" >&2
    if ! apply "$old"; then
        echo "that failed, so run: kubectl create configmap app-release --from-file=app.py=$old" \
            "--dry-run=client --output=yaml | kubectl apply --filename=-" >&2
    elif [ -n "$upgraded" ]; then
        echo "these pods serve the new release:$upgraded; to bring them back: $0 $old" >&2
    else
        rm "$old"
    fi
    exit 1
}

# Whether a pod is there, and is not terminating.
is_there() {
    found=$(kubectl get pod "$1" --ignore-not-found \
        --output=jsonpath='{.metadata.name} {.metadata.deletionTimestamp}') || fail "kubectl can't find out about $1"
    [ "$found" = "$1 " ]
}

pods=$(kubectl get pods --selector=app=app --field-selector=status.phase=Running \
    --output=jsonpath='{.items[*].metadata.name}')
[ -n "$pods" ] || { echo "no pod with the label app=app runs" >&2; exit 1; }
old=$(mktemp)
kubectl get configmap app-release --output=jsonpath='{.data.app\.py}' > "$old" && [ -s "$old" ] ||
    { rm "$old"; echo "the ConfigMap app-release has no app.py" >&2; exit 1; }
upgraded=''
trap 'fail "interrupted"' HUP INT TERM
apply "$release" || fail "the ConfigMap was not updated"
for pod in $pods; do
    # The kubelet updates mounted ConfigMaps about once a minute.
    tries=${TRIES:-90}
    until kubectl exec "$pod" -- cat /srv/app/app.py | cmp -s - "$release"; do
        is_there "$pod" || { echo "$pod is gone, or is terminating: skipped"; continue 2; }
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || fail "$pod has not got the new file"
        sleep 2
    done
    if kubectl exec "$pod" -- psflip upgrade --wait drained; then
        upgraded="$upgraded $pod"
    else
        is_there "$pod" && fail "the upgrade of $pod failed"
        echo "$pod is gone, or is terminating: skipped"
    fi
done
rm "$old"
[ -n "$upgraded" ] || { echo "no pod was upgraded" >&2; exit 1; }
