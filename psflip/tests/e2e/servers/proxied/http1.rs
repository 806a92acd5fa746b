//! Servers of HTTP/1.

use testkit::AvailabilityProbe;
use testkit::client::Target;

use super::super::load::{Application, CLIENTS, client, clients};
use super::{HTTP, PYTHON, Proxied, Server};

#[track_caller]
fn loses_nothing(server: Server) {
    let Some(proxied) = Proxied::start(server) else { return };
    proxied.loses_nothing(clients(proxied.target(), Application::Http));
}

#[test]
fn load_proxied_pythons_http_server_loses_nothing() {
    // Contract: T3, T4, T6, T7
    let cmd = &["python3", "http_server.py"];
    loses_nothing(Server { name: "http.server", files: &["http_server.py"], cmd, ..HTTP });
}

#[test]
fn load_proxied_gunicorn_with_threads_loses_nothing() {
    // Contract: T3, T4, T6, T7
    let cmd = &[
        "gunicorn",
        "--bind=127.0.0.1:{{ local('port') }}",
        "--worker-class=gthread",
        "--threads=8",
        "wsgi_app:application",
    ];
    loses_nothing(Server { name: "gunicorn, gthread", files: &["wsgi_app.py"], cmd, ..HTTP });
}

#[test]
fn load_proxied_gunicorn_with_sync_workers_loses_nothing() {
    // Contract: T3, T4, T6, T7
    let cmd = &["gunicorn", "--bind=127.0.0.1:{{ local('port') }}", "--workers=2", "wsgi_app:application"];
    loses_nothing(Server { name: "gunicorn, sync", files: &["wsgi_app.py"], cmd, ..HTTP });
}

#[test]
fn load_proxied_uvicorn_loses_nothing() {
    // Contract: T3, T4, T6, T7
    let cmd = &["uvicorn", "--port={{ local('port') }}", "--no-access-log", "asgi_plain:application"];
    loses_nothing(Server { name: "uvicorn", files: &["asgi_plain.py"], cmd, ..HTTP });
}

#[test]
fn load_proxied_aiohttp_loses_nothing() {
    // Contract: T3, T4, T6, T7
    let needs = &["/usr/lib/python3/dist-packages/aiohttp/__init__.py"];
    let cmd = &[PYTHON, "aiohttp_app.py"];
    loses_nothing(Server { name: "aiohttp", needs, files: &["aiohttp_app.py"], cmd, ..HTTP });
}

#[test]
fn load_proxied_node_loses_nothing() {
    // Contract: T3, T4, T6, T7
    loses_nothing(Server { name: "Node", files: &["plain.js"], cmd: &["node", "plain.js"], ..HTTP });
}

#[test]
fn load_proxied_node_behind_a_pool_loses_nothing() {
    // Contract: T3, T4, T6, T7
    let cmd = &["node", "plain.js"];
    loses_nothing(Server { name: "Node, pool", files: &["plain.js"], cmd, pool: 8, ..HTTP });
}

#[test]
fn load_proxied_gunicorn_with_threads_behind_a_pool_loses_nothing() {
    // Contract: T3, T4, T6, T7
    let cmd = &["gunicorn", "--bind=127.0.0.1:{{ local('port') }}", "--threads=4", "wsgi_app:application"];
    loses_nothing(Server { name: "gunicorn, gthread, pool", files: &["wsgi_app.py"], cmd, pool: 8, ..HTTP });
}

#[test]
fn load_proxied_puma_loses_nothing() {
    // Contract: T3, T4, T6, T7
    let cmd = &["puma", "--bind=tcp://127.0.0.1:{{ local('port') }}", "config.ru"];
    loses_nothing(Server { name: "Puma", files: &["config.ru"], cmd, ..HTTP });
}

#[test]
fn load_proxied_javas_http_server_loses_nothing() {
    // Contract: T3, T4, T6, T7
    let needs = &["javac"]; // the JDK compiles a source file before it runs it
    let cmd = &["java", "Plain.java"];
    loses_nothing(Server { name: "Java, HttpServer", needs, files: &["Plain.java"], cmd, ..HTTP });
}

#[test]
fn load_proxied_phps_own_server_loses_nothing() {
    // Contract: T3, T4, T6, T7
    let cmd = &["php", "-q", "-S", "127.0.0.1:{{ local('port') }}", "app.php"];
    let server = Server { name: "php -S", files: &["app.php"], cmd, ..HTTP };
    let Some(proxied) = Proxied::start(server) else { return };
    proxied.loses_nothing(clients(proxied.target(), Application::Php));
}

#[test]
fn load_proxied_apache_loses_nothing() {
    // Contract: T3, T4, T6, T7
    let cmd = &["apache2", "-DFOREGROUND", "-d", ".", "-f", "httpd.conf"];
    let server = Server { name: "Apache, event", files: &["httpd.conf"], cmd, ..HTTP };
    let Some(proxied) = Proxied::start(server) else { return };
    proxied.loses_nothing(clients_of_generations(&proxied.target()));
}

/// GET and POST in turn, to a server whose answers name its generation only.
fn clients_of_generations(target: &Target) -> AvailabilityProbe {
    AvailabilityProbe::start(CLIENTS, |number| {
        let (mut client, mut count) = (client(target, number), 0);
        move || {
            count += 1;
            let posts = count % 2 == 1;
            let response =
                if posts { client.post("/", &vec![b'x'; count * 37 % 5000]) } else { client.get("/") };
            response?.tag("pid")
        }
    })
}
