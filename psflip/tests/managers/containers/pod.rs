//! `examples/containers/kubernetes.yaml` without a Kubernetes: the volumes and the security context of its pod are
//! given to `docker run`, ConfigMaps are laid out and updated as the kubelet does, and a script takes kubectl's place.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use testkit::{Deadline, wait_until};

use super::{PORT, Site};

/// Takes kubectl's place: `exec POD -- COMMAND` is `docker exec`, and `apply` updates the mounted release.
const KUBECTL: &str = r#"#!/bin/sh
case $1 in
    create) ;;
    apply) cat > /dev/null; exec ./kubelet ;;
    get) echo pod/one; echo pod/two ;;
    exec) shift 3; exec docker exec pod "$@" ;;
esac
"#;

/// What the kubelet does when a ConfigMap has changed: another directory, and then one symlink to it.
const KUBELET: &str = "#!/bin/sh\nset -e\nnew=..$$\nold=$(readlink release/..data)\nmkdir release/$new\n\
     cp new/app.py release/$new/\nln -s $new release/..data_tmp\nmv -T release/..data_tmp release/..data\nrm -r release/$old\n";

/// The documents of the manifest.
fn documents(site: &Site) -> Vec<Value> {
    let script = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";
    let manifest = site.folder.join("kubernetes.yaml");
    let output = Command::new("/usr/bin/python3").args(["-c", script]).arg(manifest).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn words(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect()
}

/// Writes a ConfigMap as the kubelet does: `FILE` leads to `..data/FILE`, and `..data` to a directory.
fn config_map(folder: &Path, file: &str, text: &str) {
    fs::create_dir_all(folder.join("..1")).unwrap();
    fs::write(folder.join("..1").join(file), text).unwrap();
    symlink("..1", folder.join("..data")).unwrap();
    symlink(Path::new("..data").join(file), folder.join(file)).unwrap();
}

fn executable(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// The options of `docker run` for this pod.
fn options(site: &Site, pod: &Value) -> Vec<String> {
    let container = &pod["containers"][0];
    let (security, own) = (&pod["securityContext"], &container["securityContext"]);
    assert_eq!(
        (&own["readOnlyRootFilesystem"], &own["allowPrivilegeEscalation"]),
        (&Value::Bool(true), &Value::Bool(false))
    );
    let mut options = vec!["--read-only".to_owned(), "--security-opt=no-new-privileges".to_owned()];
    options.push(format!("--user={}:{}", security["runAsUser"], security["runAsGroup"]));
    options.push(format!("--group-add={}", security["fsGroup"]));
    options.push(format!("--stop-timeout={}", pod["terminationGracePeriodSeconds"]));
    options.extend(words(&own["capabilities"]["drop"]).iter().map(|name| format!("--cap-drop={name}")));
    for mount in container["volumeMounts"].as_array().unwrap() {
        let source = site.folder.join(mount["name"].as_str().unwrap()).display().to_string();
        let mode = if mount["readOnly"] == true { "ro" } else { "rw" };
        options.push(format!("--volume={source}:{}:{mode}", mount["mountPath"].as_str().unwrap()));
    }
    options
}

/// Whether a pod's probe succeeds.
fn succeeds(site: &Site, probe: &Value) -> bool {
    site.engine.docker(&[&["exec", "pod"], &words(&probe["exec"]["command"])[..]].concat()).is_ok()
}

/// The longest time of a stop fits into the pod's.
fn assert_stop_has_time(pod: &Value, config: &str) {
    let pre_stop = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().unwrap();
    let seconds = |key: &str| -> u64 {
        let line = config.lines().find(|line| line.split(' ').next() == Some(key)).unwrap();
        line.split('"').nth(1).unwrap().strip_suffix('s').unwrap().parse().unwrap()
    };
    let needed = pre_stop + seconds("drain") + seconds("timeout");
    assert!(needed < pod["terminationGracePeriodSeconds"].as_u64().unwrap(), "{needed} s");
}

pub(super) fn as_in_a_pod(site: &Site) {
    let documents = documents(site);
    let of = |kind: &str| documents.iter().find(|document| document["kind"] == kind).unwrap();
    let config = of("ConfigMap")["data"]["psflip.toml"].as_str().unwrap();
    let pod = &of("Deployment")["spec"]["template"]["spec"];
    assert_stop_has_time(pod, config);
    config_map(&site.folder.join("psflip"), "psflip.toml", config);
    config_map(&site.folder.join("release"), "app.py", &site.app("1"));
    // An emptyDir: open to all, and of the group `fsGroup`.
    let run = site.folder.join("run");
    fs::create_dir(&run).unwrap();
    chown(&run, Some(0), Some(65532)).unwrap();
    fs::set_permissions(&run, fs::Permissions::from_mode(0o2777)).unwrap();
    let options = options(site, pod);
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    site.engine
        .docker(
            &[&["run", "--detach", "--name=pod", &format!("--publish={PORT}:8080")], &options[..], &["app"]]
                .concat(),
        )
        .unwrap();
    let container = &pod["containers"][0];
    for name in ["startupProbe", "readinessProbe", "livenessProbe"] {
        wait_until(Deadline::default(), name, || succeeds(site, &container[name]).then_some(()));
    }
    for line in fs::read_to_string(site.folder.join("kubernetes.yaml")).unwrap().lines() {
        if let Some((_, command)) = line.split_once(" -- psflip ") {
            let command = command.split(" #").next().unwrap();
            site.exec("pod", &command.split_whitespace().collect::<Vec<_>>()).unwrap();
        }
    }
    upgrade_in_place(site);
    assert_eq!(site.stop("pod"), "exited 0");
    site.engine.docker(&["rm", "pod"]).unwrap();
}

/// The manifest's script, by a good release and a bad one.
fn upgrade_in_place(site: &Site) {
    executable(&site.sandbox.path("bin/kubectl"), KUBECTL);
    executable(&site.folder.join("kubelet"), KUBELET);
    fs::create_dir(site.folder.join("new")).unwrap();
    fs::write(site.folder.join("new/app.py"), site.app("2")).unwrap();
    let probe = site.clients();
    let stdout = site.run("./kubernetes-upgrade.sh new/app.py");
    for part in ["generation 2 is active", "generation 3 is active"] {
        assert!(stdout.contains(part), "`{part}` is missing:\n{stdout}");
    }
    probe.wait_tag("2");
    // The first pod whose upgrade fails is the last one.
    fs::write(site.folder.join("new/app.py"), "import no_such_module\n").unwrap();
    let script = site.shell("./kubernetes-upgrade.sh new/app.py");
    assert_eq!(script.wait_exit().code(), Some(1), "{}", site.sandbox.report());
    script.output().wait_closed();
    assert_eq!(script.stderr().matches("failed; the old child").count(), 1, "{}", site.sandbox.report());
    probe.wait_requests(10);
    let report = probe.finish();
    report.assert_no_failures();
    assert_eq!(report.by_tag.keys().collect::<Vec<_>>(), ["1", "2"], "{report}");
}
