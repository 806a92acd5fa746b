//! `psflip list`: finds services wherever their control sockets are. Other tests run services of their own at
//! the same time, so each test looks only at those in its sandbox.

use serde_json::Value;
use testkit::{Sandbox, psflip_bin};

use super::{run, start_at_once};
use crate::service::{AT_ONCE, freeze, stop, thaw};

/// The services with a socket in this sandbox.
#[track_caller]
fn listed(sandbox: &Sandbox) -> Vec<Value> {
    let (_, stdout, stderr) = run(sandbox, &["list", "--json"]);
    let all: Vec<Value> = serde_json::from_str(&stdout).unwrap_or_else(|_| panic!("{stdout}{stderr}"));
    let here = sandbox.dir().to_str().unwrap();
    all.into_iter().filter(|one| one["socket"].as_str().unwrap().starts_with(here)).collect()
}

#[test]
fn list_finds_services_by_their_control_sockets() {
    // Contract: O5
    let (usual, odd) = (Sandbox::new(), Sandbox::new());
    let psflip = start_at_once(&usual);
    psflip.flip();
    // Its socket has a name of its own, and psflip holds those of `[[listen]]` as well.
    let config = format!(
        "[control]\nsocket = \"run/odd\"\n[[listen]]\naddress = \"unix://web\"\n[[listen]]\naddress = \"unix://b\"\n{AT_ONCE}"
    );
    std::fs::create_dir(odd.path("run")).unwrap();
    let other = odd.psflip().cmd(["/bin/sleep", "infinity"]).config(config).start().wait_ready();
    let found = listed(&usual);
    let [one] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(one["pid"], one["status"]["pid"]);
    assert_eq!(
        (&one["status"]["generation"], &one["status"]["pid"]),
        (&2.into(), &psflip.active_pid().into())
    );
    let found = listed(&odd);
    let [one] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(one["socket"], odd.path("run/odd").to_str().unwrap());
    assert_eq!(one["status"]["state"], "serving");

    let (_, stdout, stderr) = run(&usual, &["list"]);
    let config = usual.path("psflip.toml").display().to_string();
    let line =
        stdout.lines().find(|line| line.starts_with(&config)).unwrap_or_else(|| panic!("{stdout}{stderr}"));
    let words: Vec<&str> = line[config.len()..].split_whitespace().collect();
    assert_eq!(words[0], psflip.active_pid().to_string());
    assert_eq!(words[1], "2");
    assert!(line.contains("promoted ") && line.ends_with(" ago"), "{line}");
    stop(&other);
    stop(&psflip);
    assert!(listed(&usual).is_empty(), "it is stopped");
}

#[test]
fn a_psflip_that_does_not_answer_is_listed_as_such() {
    // Contract: O5
    let sandbox = Sandbox::new();
    let psflip = start_at_once(&sandbox);
    let active = psflip.active();
    freeze(active);
    let client = sandbox.command([psflip_bin()]).args(["list", "--timeout", "100ms"]).start();
    assert_eq!(client.wait_exit().code(), Some(125), "{}", sandbox.report());
    client.output().wait_closed();
    let socket = sandbox.path("psflip.pid.sock").display().to_string();
    let line = client.stdout().lines().find(|line| line.starts_with(&socket)).map(str::to_owned);
    assert!(line.is_some_and(|line| line.contains("no answer")), "{}", client.stdout());
    thaw(active);
    stop(&psflip);
}

#[test]
fn a_service_with_another_root_directory_is_found_through_proc() {
    // Contract: O5
    if !testkit::need_root() || testkit::need("unshare").is_none() {
        return;
    }
    let sandbox = Sandbox::new();
    let wrapper = [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        "mount -t tmpfs none /mnt && exec \"$@\"",
        "sh",
    ];
    let psflip = sandbox
        .psflip()
        .wrapper(wrapper)
        .cmd(["/bin/sleep", "infinity"])
        .config(format!("[control]\nsocket = \"/mnt/psflip.sock\"\n{AT_ONCE}"))
        .start()
        .wait_ready();
    let pid = psflip.active_pid();
    let (_, stdout, stderr) = run(&sandbox, &["list", "--json"]);
    let all: Vec<Value> = serde_json::from_str(&stdout).unwrap_or_else(|_| panic!("{stdout}{stderr}"));
    let one = all.iter().find(|one| one["pid"] == pid).unwrap_or_else(|| panic!("{pid} is not in {stdout}"));
    assert_eq!(one["socket"], "/mnt/psflip.sock");
    assert_eq!(one["status"]["state"], "serving", "{one}");
    stop(&psflip);
}

#[test]
fn a_program_that_only_calls_itself_psflip_neither_blocks_the_list_nor_is_trusted() {
    // Contract: O5
    let Some(python) = testkit::need("/usr/bin/python3") else { return };
    let sandbox = Sandbox::new();
    std::fs::copy(std::fs::canonicalize(python).unwrap(), sandbox.path("psflip")).unwrap();
    // Opening `fifo` would wait for ever, and the other socket sends lines for ever.
    sandbox.write(
        "fake.py",
        "import os, socket\n\
         def listen(path):\n\
         \x20   s = socket.socket(socket.AF_UNIX)\n\
         \x20   s.bind(path)\n\
         \x20   s.listen()\n\
         \x20   return s\n\
         os.mkfifo('fifo')\n\
         fifo, spam = listen('fifo.sock'), listen('psflip.sock')\n\
         print('ready', flush=True)\n\
         while True:\n\
         \x20   client, _ = spam.accept()\n\
         \x20   try:\n\
         \x20       while True:\n\
         \x20           client.send(b'{\"event\":\"other\"}\\n' * 100)\n\
         \x20   except OSError:\n\
         \x20       client.close()\n",
    );
    let program = sandbox.path("psflip");
    let fake = sandbox.command([program.to_str().unwrap(), "fake.py"]).start();
    fake.output().wait(testkit::Stream::Stdout, "ready");
    let found = listed(&sandbox);
    let [one] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(one["socket"], sandbox.path("psflip.sock").to_str().unwrap());
    assert_eq!(one["error"], "it answered something else");
    fake.signal(testkit::Signal::SIGKILL);
    fake.wait_exit();
}

#[test]
fn the_configuration_of_another_users_process_is_not_evaluated() {
    // Contract: O5
    let Some(python) = testkit::need("/usr/bin/python3") else { return };
    if !testkit::need_root() || testkit::need("setpriv").is_none() {
        return;
    }
    let sandbox = Sandbox::new();
    let open = |name: &str, mode| {
        std::fs::set_permissions(sandbox.path(name), std::os::unix::fs::PermissionsExt::from_mode(mode))
            .unwrap();
    };
    std::fs::copy(std::fs::canonicalize(python).unwrap(), sandbox.path("psflip")).unwrap();
    sandbox.write("evil.toml", "cmd = [\"true\"]\n[control]\nsocket = \"{{ cat('secret') }}\"\n");
    sandbox.write("secret", "odd");
    sandbox.write(
        "fake.py",
        "import signal, socket\n\
         s = socket.socket(socket.AF_UNIX)\n\
         s.bind('odd')\n\
         s.listen()\n\
         print('ready', flush=True)\n\
         signal.pause()\n",
    );
    open("", 0o777);
    let program = sandbox.path("psflip").display().to_string();
    let fake = [program.as_str(), "fake.py", "-c", "evil.toml"];
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    for (wrapper, is_listed) in [(&nobody[..], false), (&[], true)] {
        let fake = sandbox.command(wrapper.iter().chain(&fake)).start();
        fake.output().wait(testkit::Stream::Stdout, "ready");
        let found = listed(&sandbox);
        assert_eq!(found.len(), usize::from(is_listed), "{wrapper:?}: {found:?}");
        fake.signal(testkit::Signal::SIGKILL);
        fake.wait_exit();
        std::fs::remove_file(sandbox.path("odd")).unwrap();
    }
}
