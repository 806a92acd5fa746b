//! What a rehearsal finds in servers that people run: the losses that docs/traffic.md describes, and none behind a
//! proxy.

use serde_json::Value;
use testkit::{Deadline, Sandbox, need, need_root, psflip_bin};

/// The application of each server, beside the configuration.
const ASGI: &str = "async def application(scope, receive, send):
    if scope['type'] == 'lifespan':
        while True:
            kind = (await receive())['type']
            await send({'type': kind + '.complete'})
            if kind == 'lifespan.shutdown':
                return
    await send({'type': 'http.response.start', 'status': 200, 'headers': [(b'content-length', b'2')]})
    await send({'type': 'http.response.body', 'body': b'ok'})
";
const WSGI: &str = "def application(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain'), ('Content-Length', '2')])
    return [b'ok']
";
const AIOHTTP: &str = "import os, socket
from aiohttp import web
async def hello(request):
    return web.Response(text='ok')
app = web.Application()
app.router.add_get('/', hello)
where = {'port': int(os.environ['PORT']), 'host': '127.0.0.1'} if 'PORT' in os.environ else {'sock': socket.socket(fileno=3)}
web.run_app(app, print=None, **where)
";

/// All versions share a socket. The child says nothing when it is ready, so it gets some time.
const SHARED: &str = "pidfile = 'app.pid'\n[[listen]]\naddress = 'tcp://127.0.0.1:{PORT}'\nnodelay = true\n[healthcheck.alive]\ntimeout = '1s'\n";
/// As before; the child reports that it is ready.
const NOTIFY: &str =
    "pidfile = 'app.pid'\n[[listen]]\naddress = 'tcp://127.0.0.1:{PORT}'\n[healthcheck.notify]\n";
const PROXY: &str = "pidfile = 'app.pid'
env.PORT = \"{{ local('port') }}\"
locals.port = \"{{ free_port('20000-29999') }}\"
[[proxy]]
listen = 'tcp://127.0.0.1:{PORT}'
protocol = 'http'
forward = \"127.0.0.1:{{ local('port') }}\"
[healthcheck.tcp]
address = \"127.0.0.1:{{ local('port') }}\"
";
/// Each rehearsal has a network of its own.
const PORT: u16 = 80;
const FLIPS: u64 = 3;
/// Half of the eight clients keep their connections.
const KEEPING: u64 = 4;

/// Rehearses a server; returns its report, or `None` if it is not installed.
#[track_caller]
fn rehearse(program: &str, cmd: &str, config: &str) -> Option<Value> {
    if !need_root() {
        return None;
    }
    need(program)?;
    Some(report(cmd, config))
}

/// Rehearses a server that is installed.
#[track_caller]
fn report(cmd: &str, config: &str) -> Value {
    let sandbox = Sandbox::new();
    sandbox.write("asgi_app.py", ASGI);
    sandbox.write("wsgi_app.py", WSGI);
    sandbox.write("aiohttp_app.py", AIOHTTP);
    sandbox.write("app.toml", format!("cmd = {cmd}\n{}", config.replace("{PORT}", &PORT.to_string())));
    let psflip = psflip_bin();
    let url = "http://127.0.0.1/";
    let args =
        ["--psflip", psflip.to_str().unwrap(), "-c", "app.toml", "--load", url, "--json", "--pause=300ms"];
    let flips = FLIPS.to_string();
    let program = [env!("CARGO_BIN_EXE_psflip-rehearse"), "--flips", &flips];
    let running = sandbox.command(program.iter().chain(&args)).start();
    running.wait_exit_by(Deadline::after(std::time::Duration::from_secs(90)));
    let report = serde_json::from_str(&running.stdout());
    report.unwrap_or_else(|error| panic!("{error}: {}{}", running.stdout(), running.stderr()))
}

fn lost(report: &Value, kind: &str) -> u64 {
    let loads = report["loads"].as_array().unwrap().iter();
    loads.filter(|load| load["kind"] == kind).map(|load| load["lost"].as_u64().unwrap()).sum()
}

/// Every client that keeps its connection loses a request at every upgrade, but one that happens to be answered
/// with `Connection: close` in this moment.
#[track_caller]
fn assert_loses_kept_connections(report: &Value) {
    let kept = lost(report, "keep-alive");
    assert!((FLIPS * KEEPING / 2..=FLIPS * KEEPING).contains(&kept), "{kept} lost: {:#}", report["losses"]);
    assert_eq!(report["keep_alive_lost"].as_u64(), Some(kept), "{:#}", report["losses"]);
    let finding = &report["findings"][0];
    assert!(finding["why"].as_str().unwrap().contains("closes idle keep-alive connections"), "{finding:#}");
}

#[track_caller]
fn assert_loses_nothing(report: &Value) {
    assert_eq!(
        (&report["lost"], &report["failures"]),
        (&0.into(), &Value::Array(Vec::new())),
        "{:#}",
        report["losses"]
    );
    assert!(report["requests"].as_u64() > Some(100), "{report:#}");
}

const UVICORN: &str = "['/usr/bin/uvicorn', '--lifespan', 'on', '--no-access-log', 'asgi_app:application', ";

#[test]
fn uvicorn_loses_its_kept_connections() {
    let cmd = format!("{UVICORN}'--fd', '3']");
    if let Some(report) = rehearse("uvicorn", &cmd, SHARED) {
        assert_loses_kept_connections(&report);
    }
}

#[test]
fn uvicorn_behind_the_proxy_loses_nothing() {
    let cmd = format!("{UVICORN}'--port', \"{{{{ local('port') }}}}\"]");
    if let Some(report) = rehearse("uvicorn", &cmd, PROXY) {
        assert_loses_nothing(&report);
    }
}

const AIOHTTP_CMD: &str = "['/usr/bin/python3', 'aiohttp_app.py']";

#[test]
fn aiohttp_loses_its_kept_connections() {
    let file = "/usr/lib/python3/dist-packages/aiohttp/__init__.py";
    if let Some(report) = rehearse(file, AIOHTTP_CMD, SHARED) {
        assert_loses_kept_connections(&report);
    }
}

#[test]
fn aiohttp_behind_the_proxy_loses_nothing() {
    let file = "/usr/lib/python3/dist-packages/aiohttp/__init__.py";
    if let Some(report) = rehearse(file, AIOHTTP_CMD, PROXY) {
        assert_loses_nothing(&report);
    }
}

#[test]
fn gunicorn_behind_the_proxy_loses_nothing() {
    let cmd = "['/usr/bin/gunicorn', '-b', \"127.0.0.1:{{ local('port') }}\", '-w', '2', '-k', 'gthread', '--threads', '4', 'wsgi_app']";
    if let Some(report) = rehearse("gunicorn", cmd, PROXY) {
        assert_loses_nothing(&report);
    }
}

/// This version keeps idle connections open for two seconds as it stops, and answers what arrives on them.
#[test]
fn gunicorn_27_loses_nothing_on_a_shared_socket() {
    if !need_root() {
        return;
    }
    let Some(gunicorn) = need("gunicorn-27") else { return };
    let options = "'-w', '2', '-k', 'gthread', '--threads', '4'";
    assert_loses_nothing(&report(&format!("['{}', {options}, 'wsgi_app']", gunicorn.display()), SHARED));
}

/// axum's own graceful shutdown: every idle connection is closed, and connections that wait in the queue are lost
/// with it, if there are any in this moment.
#[test]
fn axum_loses_its_kept_connections_and_fresh_ones() {
    if !need_root() {
        return;
    }
    let server = psflip_bin().with_file_name("axum-server");
    assert!(server.is_file(), "{} is missing: `cargo build --package axum-server`", server.display());
    let report = report(&format!("['{}', '--careless']", server.display()), NOTIFY);
    let findings = report["findings"].as_array().unwrap();
    let count = |why: &str| -> u64 {
        let found = findings.iter().filter(|one| one["why"].as_str().unwrap().contains(why));
        found.map(|one| one["count"].as_u64().unwrap()).sum()
    };
    let kept = count("closes idle keep-alive connections");
    assert!((FLIPS * KEEPING / 2..=FLIPS * KEEPING).contains(&kept), "{kept} lost: {findings:#?}");
    // A client of a lost connection opens a fresh one, which may be lost as well.
    assert!(count("that it had accepted") >= lost(&report, "new"), "{findings:#?}");
}
