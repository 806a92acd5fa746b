//! `examples/containers/kubernetes.yaml` without a Kubernetes: the volumes and the security context of its pod are
//! given to `docker run`, ConfigMaps are laid out and updated as the kubelet does, and a script takes kubectl's place.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use testkit::{Deadline, wait_until};

use super::{PORT, SCRIPT_TIMEOUT, Site, page};

/// Takes kubectl's place: `exec POD -- COMMAND` is `docker exec`, and `apply` updates the mounted release, unless it is
/// that in `refused`. `pods` lists the pods; those in `gone`, `terminating` and `stuck` (without the new file) are so.
const KUBECTL: &str = r#"#!/bin/sh
case "$1 $2" in
    "create configmap")
        for word; do
            case $word in --from-file=app.py=*) cat "${word#--from-file=app.py=}" ;; esac
        done ;;
    "apply --filename=-")
        cat > applied
        if cmp -s applied refused; then exit 1; fi
        exec ./kubelet ;;
    "get configmap") cat release/app.py ;;
    "get pods") cat pods ;;
    "get pod")
        if grep -qx "$3" gone; then exit 0; fi
        if grep -qx "$3" terminating; then echo "$3 2026-12-01T10:00:00Z"; else echo "$3 "; fi ;;
    exec*)
        if grep -qx "$2" gone terminating stuck; then exit 1; fi
        shift 3
        exec docker exec pod "$@" ;;
    *) echo "unexpected: $*" >&2; exit 1 ;;
esac
"#;

/// What the kubelet does when a ConfigMap has changed: another directory, and then one symlink to it.
const KUBELET: &str = "#!/bin/sh\nset -e\numask 022\nnew=..$$\nold=$(readlink release/..data)\nmkdir release/$new\n\
     cat applied > release/$new/app.py\nln -s $new release/..data_tmp\n\
     mv -T release/..data_tmp release/..data\nrm -r release/$old\n";

/// The script, with its temporary file where the test looks for it.
const SCRIPT: &str = "TMPDIR=$PWD/temporary ./kubernetes-upgrade.sh new/app.py";

/// The health checks of a pod.
const PROBES: [&str; 3] = ["startupProbe", "readinessProbe", "livenessProbe"];

/// The documents of the manifest.
fn documents() -> Vec<Value> {
    let script = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/containers/kubernetes.yaml");
    let output = Command::new("/usr/bin/python3").args(["-c", script]).arg(manifest).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn of<'a>(documents: &'a [Value], kind: &str) -> &'a Value {
    documents.iter().find(|document| document["kind"] == kind).unwrap()
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

/// The commands of the pod's probes, and of the image's health check.
fn checks(site: &Site, container: &Value) -> Vec<Vec<String>> {
    let of_image: Value =
        serde_json::from_str(&site.inspect("pod", "{{json .Config.Healthcheck.Test}}")).unwrap();
    let (of_image, probes) =
        (words(&of_image), PROBES.map(|name| words(&container[name]["exec"]["command"])));
    assert_eq!(of_image[0], "CMD");
    let commands = probes.into_iter().chain([of_image[1..].to_vec()]);
    commands.map(|command| command.into_iter().map(str::to_owned).collect()).collect()
}

/// The output of each health check, which all succeed.
#[track_caller]
fn assert_healthy(site: &Site, checks: &[Vec<String>]) -> Vec<String> {
    let run = |check: &Vec<String>| {
        let command: Vec<&str> =
            ["exec", "pod"].into_iter().chain(check.iter().map(String::as_str)).collect();
        site.engine.docker(&command).unwrap_or_else(|error| panic!("{check:?}: {error}"))
    };
    checks.iter().map(run).collect()
}

/// Whoever edits the configuration for the next upgrade does not make the running version unhealthy.
#[track_caller]
fn assert_healthy_whatever_the_configuration_says(site: &Site, checks: &[Vec<String>], config: &str) {
    let file = site.folder.join("psflip/psflip.toml");
    let elsewhere = config.replace("/run/psflip/app.pid", "/run/psflip/other.pid");
    assert_ne!(elsewhere, config);
    for text in [&elsewhere, "pidfile = ["] {
        fs::write(&file, text).unwrap();
        assert!(
            site.exec("pod", &["status", "--check"]).is_err(),
            "the container does not see its configuration"
        );
        assert_healthy(site, checks);
    }
    fs::write(&file, config).unwrap();
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
    let documents = documents();
    let config = of(&documents, "ConfigMap")["data"]["psflip.toml"].as_str().unwrap();
    let pod = &of(&documents, "Deployment")["spec"]["template"]["spec"];
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
    let checks = checks(site, &pod["containers"][0]);
    wait_until(Deadline::default(), "the pod to be ready", || site.exec("pod", &["status", "--check"]).ok());
    assert_healthy(site, &checks);
    assert_healthy_whatever_the_configuration_says(site, &checks, config);
    for line in fs::read_to_string(site.folder.join("kubernetes.yaml")).unwrap().lines() {
        if let Some((_, command)) = line.split_once(" -- psflip ") {
            let command = command.split(" #").next().unwrap();
            site.exec("pod", &command.split_whitespace().collect::<Vec<_>>()).unwrap();
        }
    }
    upgrade_in_place(site, &checks);
    assert_eq!(site.stop("pod"), "exited 0");
    site.engine.docker(&["rm", "pod"]).unwrap();
}

/// Runs the manifest's script, which fails with this error. Returns its standard error.
#[track_caller]
fn fails(site: &Site, script: &str, error: &str) -> String {
    let shell = site.shell(script);
    let status = shell.wait_exit_by(Deadline::after(SCRIPT_TIMEOUT));
    shell.output().wait_closed();
    assert_eq!(status.code(), Some(1), "{}", site.sandbox.report());
    assert!(shell.stderr().contains(error), "{}", site.sandbox.report());
    shell.stderr()
}

/// The manifest's script, by good releases and bad ones.
fn upgrade_in_place(site: &Site, checks: &[Vec<String>]) {
    executable(&site.sandbox.path("bin/kubectl"), KUBECTL);
    executable(&site.folder.join("kubelet"), KUBELET);
    for folder in ["new", "temporary"] {
        fs::create_dir(site.folder.join(folder)).unwrap();
    }
    let write = |file: &str, text: &str| fs::write(site.folder.join(file), text).unwrap();
    for (file, text) in [
        ("pods", "one three two four"),
        ("gone", "three\n"),
        ("terminating", "four\n"),
        ("stuck", ""),
        ("refused", ""),
    ] {
        write(file, text);
    }
    let probe = site.clients();
    upgraded_and_healthy(site, checks);
    probe.wait_tag("2");
    let mounted = || fs::read_to_string(site.folder.join("release/app.py")).unwrap();
    let good = mounted();
    // Nothing is upgraded if there is no pod, or nobody knows the pods.
    write("pods", "");
    write("new/app.py", "import no_such_module\n");
    fails(site, SCRIPT, "no pod with the label app=app runs");
    fs::remove_file(site.folder.join("pods")).unwrap();
    fails(site, SCRIPT, "");
    assert_eq!(mounted(), good);
    // The first pod whose upgrade fails is the last one, and the old release is mounted again.
    write("pods", "one two");
    let stderr =
        fails(site, SCRIPT, "the upgrade of one failed; the old release goes back into the ConfigMap");
    assert_eq!(stderr.matches("failed; the old child").count(), 1, "{stderr}");
    assert_eq!(mounted(), good);
    // A pod that does not get the file is not waited for without end.
    write("stuck", "one\n");
    fails(site, &format!("TRIES=1 {SCRIPT}"), "one has not got the new file; the old release goes back");
    assert_eq!(mounted(), good);
    write("stuck", "");
    assert_eq!(fs::read_dir(site.folder.join("temporary")).unwrap().count(), 0, "a temporary file is left");
    // Those before a failed one keep the new release: the script says how to bring them back, and that does it.
    write("new/app.py", &site.app("3"));
    write("stuck", "two\n");
    let stderr = fails(site, &format!("TRIES=1 {SCRIPT}"), "two has not got the new file");
    probe.wait_tag("3");
    write("stuck", "");
    let back = "these pods serve the new release: one; to bring them back: ";
    site.run(stderr.split_once(back).unwrap_or_else(|| panic!("{stderr}")).1);
    assert_eq!(site.exec("pod", &["status", "--check"]).map(drop), Ok(()));
    assert_eq!(mounted(), good);
    fs::remove_dir_all(site.folder.join("temporary")).unwrap();
    fs::create_dir(site.folder.join("temporary")).unwrap();
    write("new/app.py", "import no_such_module\n");
    // The old release can't be put back: the script prints the command that does it.
    write("refused", &good);
    let stderr = fails(site, SCRIPT, "that failed, so run: ");
    assert_eq!(mounted(), "import no_such_module\n");
    write("refused", "");
    site.run(stderr.split_once("that failed, so run: ").unwrap().1);
    assert_eq!(mounted(), good);
    probe.wait_requests(10);
    let report = probe.finish();
    report.assert_no_failures();
    assert_eq!(report.by_tag.keys().collect::<Vec<_>>(), ["1", "2", "3"], "{report}");
}

/// Every health check succeeds all through the upgrades of two pods. The first one waits until they have been seen.
fn upgraded_and_healthy(site: &Site, checks: &[Vec<String>]) {
    let waits = "import os, threading\nwhile not os.path.exists(\"/run/psflip/go\"):\n    threading.Event().wait(0.01)\n";
    let release = format!("{waits}{}", site.app("2"));
    fs::write(site.folder.join("new/app.py"), release).unwrap();
    let script = site.shell(SCRIPT);
    wait_until(Deadline::default(), "the upgrade to be under way", || {
        let said = site.exec("pod", &["status", "--check"]).ok()?;
        said.starts_with("upgrading: generation 1,").then_some(())
    });
    let said = assert_healthy(site, checks);
    assert!(said[0].starts_with("upgrading: generation 1,"), "{said:?}");
    fs::write(site.folder.join("run/go"), "").unwrap();
    while script.try_status().is_none() {
        assert_healthy(site, checks);
    }
    assert!(script.wait_exit().success(), "{}", site.sandbox.report());
    script.output().wait_closed();
    let stdout = script.stdout();
    for part in [
        "generation 2 is active",
        "three is gone, or is terminating: skipped",
        "generation 3 is active",
        "four is gone, or is terminating: skipped",
    ] {
        assert!(stdout.contains(part), "`{part}` is missing:\n{stdout}");
    }
}

/// What the manifest refers to is there.
#[test]
fn the_manifest_of_kubernetes_is_consistent() {
    if testkit::need("/usr/bin/python3").is_none() {
        return;
    }
    let documents = documents();
    let (deployment, service) = (of(&documents, "Deployment"), of(&documents, "Service"));
    let template = &deployment["spec"]["template"];
    let (pod, labels) = (&template["spec"], &template["metadata"]["labels"]);
    let container = &pod["containers"][0];
    let names = |list: &Value| -> BTreeSet<String> {
        list.as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&container["volumeMounts"]), names(&pod["volumes"]));
    for volume in pod["volumes"].as_array().unwrap() {
        let Some(name) = volume["configMap"]["name"].as_str() else { continue };
        let is_in_manifest = of(&documents, "ConfigMap")["metadata"]["name"] == name;
        let is_on_page = page().contains(&format!("\n    kubectl create configmap {name} --from-file="));
        assert!(is_in_manifest || is_on_page, "nothing creates the ConfigMap `{name}`");
    }
    assert!(labels.as_object().is_some_and(|labels| !labels.is_empty()));
    assert_eq!(
        (&deployment["spec"]["selector"]["matchLabels"], &service["spec"]["selector"]),
        (labels, labels)
    );
    for port in service["spec"]["ports"].as_array().unwrap() {
        let target = port["targetPort"].as_str().unwrap();
        assert!(names(&container["ports"]).contains(target), "no port is named `{target}`");
    }
    let config = of(&documents, "ConfigMap")["data"]["psflip.toml"].as_str().unwrap();
    let pidfile = config.lines().find_map(|line| line.strip_prefix("pidfile = ")).unwrap().trim_matches('"');
    for name in PROBES {
        let command = words(&container[name]["exec"]["command"]);
        assert_eq!(
            command.iter().find(|word| word.ends_with(".sock")),
            Some(&&*format!("{pidfile}.sock")),
            "{name}"
        );
    }
}
