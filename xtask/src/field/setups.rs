//! The set-ups: each server by its own tool, and by psflip.

/// A server, and what upgrades it.
pub(super) struct Setup {
    pub(super) name: &'static str,
    /// Programs that must be installed.
    pub(super) needs: &'static [&'static str],
    pub(super) upgrade: Upgrade,
    pub(super) load: &'static str,
    /// How long the load goes on after each upgrade: longer than an upgrade that goes on by itself.
    pub(super) pause: &'static str,
}

/// What upgrades the server.
pub(super) enum Upgrade {
    /// Its own tool: how the server is started, and what upgrades it.
    Tool { service: &'static str, during: &'static str },
    /// psflip, by a file of `examples/servers`.
    Psflip(&'static str),
    /// psflip's proxy, with this command.
    Proxy(&'static [&'static str]),
}

const HTTP: &str = "http://127.0.0.1:8080/";
/// A worker serves one connection at a time, so web servers open one for each request.
const FCGI: &str = "new=fcgi+unix://php-fpm.sock:/ping";

/// A tool that returns at once, and upgrades in the background.
const ASYNC: &str = "3s";
/// psflip reports when an upgrade is over.
const AT_ONCE: &str = "500ms";

const fn tool(
    name: &'static str,
    needs: &'static [&'static str],
    service: &'static str,
    during: &'static str,
) -> Setup {
    Setup { name, needs, upgrade: Upgrade::Tool { service, during }, load: HTTP, pause: ASYNC }
}

const fn psflip(name: &'static str, needs: &'static [&'static str], config: &'static str) -> Setup {
    Setup { name, needs, upgrade: Upgrade::Psflip(config), load: HTTP, pause: AT_ONCE }
}

const fn proxy(name: &'static str, needs: &'static [&'static str], cmd: &'static [&'static str]) -> Setup {
    Setup { name, needs, upgrade: Upgrade::Proxy(cmd), load: HTTP, pause: AT_ONCE }
}

/// Waits until a file exists, or no longer exists.
macro_rules! until {
    ($test:literal) => {
        concat!("i=0; until ", $test, "; do i=$((i+1)); [ $i -lt 200 ] || exit 9; sleep 0.05; done; ")
    };
}

pub(super) const SETUPS: &[Setup] = &[
    tool(
        "gunicorn, kill -HUP",
        &["gunicorn"],
        "exec gunicorn --bind 127.0.0.1:8080 --workers 2 --worker-class gthread --threads 4 wsgi_app",
        "kill -HUP $SERVICE_PID",
    ),
    tool(
        "gunicorn, kill -USR2 and -TERM",
        &["gunicorn"],
        "exec gunicorn --bind 127.0.0.1:8080 --workers 2 --worker-class gthread --threads 4 --pid g.pid wsgi_app",
        concat!(
            "old=$(cat g.pid); kill -USR2 $old; ",
            until!("[ -s g.pid.2 ]"),
            // Its documentation: wait until the new workers have started, then stop the old ones.
            "sleep 1; kill -TERM $old; ",
            until!("[ ! -e /proc/$old ]"),
            until!("[ -s g.pid ] && [ ! -e g.pid.2 ]"),
        ),
    ),
    psflip("gunicorn, psflip with [[listen]]", &["gunicorn"], "field-gunicorn.toml"),
    proxy(
        "gunicorn, psflip --proxy",
        &["gunicorn"],
        &[
            "gunicorn",
            "--bind",
            "127.0.0.1:{{ local('port') }}",
            "--workers",
            "2",
            "--worker-class",
            "gthread",
            "--threads",
            "4",
            "wsgi_app",
        ],
    ),
    tool(
        "gunicorn 27, kill -HUP",
        &["gunicorn-27"],
        "exec gunicorn-27 --bind 127.0.0.1:8080 --workers 2 --worker-class gthread --threads 4 wsgi_app",
        "kill -HUP $SERVICE_PID",
    ),
    psflip("gunicorn 27, psflip with [[listen]]", &["gunicorn-27"], "field-gunicorn-27.toml"),
    tool(
        "uvicorn under gunicorn, kill -HUP",
        &["gunicorn", "uvicorn"],
        "exec gunicorn --bind 127.0.0.1:8080 --workers 2 --worker-class uvicorn.workers.UvicornWorker asgi_app:application",
        "kill -HUP $SERVICE_PID",
    ),
    tool(
        "uvicorn 0.54 with workers, kill -HUP",
        &["uvicorn-0.54"],
        "exec uvicorn-0.54 --port 8080 --workers 2 --no-access-log asgi_app:application",
        "kill -HUP $SERVICE_PID",
    ),
    proxy(
        "uvicorn, psflip --proxy",
        &["uvicorn"],
        &[
            "uvicorn",
            "--port",
            "{{ local('port') }}",
            "--lifespan",
            "on",
            "--no-access-log",
            "asgi_app:application",
        ],
    ),
    tool(
        "Puma cluster, phased restart",
        &["puma"],
        "exec puma --workers 2 --threads 4:4 --bind tcp://127.0.0.1:8080 config.ru",
        "kill -USR1 $SERVICE_PID",
    ),
    psflip("Puma cluster, psflip with [[listen]]", &["puma"], "puma-cluster.toml"),
    proxy(
        "Puma, psflip --proxy",
        &["puma"],
        &["puma", "--threads", "4:4", "--bind", "tcp://127.0.0.1:{{ local('port') }}", "config.ru"],
    ),
    tool(
        "nginx, reload",
        &["nginx"],
        "exec /usr/sbin/nginx -p . -c field-nginx.conf -g 'daemon off;'",
        "kill -HUP $SERVICE_PID",
    ),
    tool(
        // As a daemon: in the foreground, nginx ignores SIGUSR2.
        "nginx, kill -USR2 and -QUIT",
        &["nginx"],
        "/usr/sbin/nginx -p . -c field-nginx.conf",
        concat!(
            "old=$(cat nginx.pid); kill -USR2 $old; ",
            until!("[ -s nginx.pid.oldbin ] && [ -s nginx.pid ]"),
            "sleep 0.5; kill -QUIT $old; ",
            until!("[ ! -e /proc/$old ]"),
        ),
    ),
    psflip("nginx, psflip with [[listen]]", &["nginx"], "nginx.toml"),
    tool(
        "HAProxy, master-worker reload",
        &["haproxy"],
        "exec haproxy -W -f field-haproxy.cfg",
        "kill -USR2 $SERVICE_PID",
    ),
    psflip("HAProxy, psflip with [[listen]]", &["haproxy"], "haproxy.toml"),
    tool(
        "Apache, graceful restart",
        &["apache2"],
        "exec apache2 -d . -f field-apache.conf -D FOREGROUND",
        "kill -USR1 $SERVICE_PID",
    ),
    psflip("Apache, psflip (SO_REUSEPORT)", &["apache2"], "apache.toml"),
    tool(
        "Caddy, reload",
        &["caddy"],
        "HOME=$PWD exec caddy run --config field-Caddyfile --adapter caddyfile",
        "HOME=$PWD exec caddy reload --force --config field-Caddyfile --adapter caddyfile",
    ),
    tool(
        "Starlet, start_server -HUP",
        &["start_server", "plackup"],
        "exec start_server --port 127.0.0.1:8080 -- plackup -s Starlet --max-workers 4 --app app.psgi",
        "kill -HUP $SERVICE_PID",
    ),
    psflip("Starlet, psflip with [[listen]]", &["start_server", "plackup"], "starlet.toml"),
    Setup {
        name: "php-fpm, kill -USR2",
        needs: &["php-fpm8.2"],
        upgrade: Upgrade::Tool {
            service: "PHP_SOCKET=php-fpm.sock exec php-fpm8.2 --nodaemonize --force-stderr --prefix . --allow-to-run-as-root --fpm-config php-fpm.conf",
            during: "kill -USR2 $SERVICE_PID",
        },
        load: FCGI,
        pause: ASYNC,
    },
    Setup {
        name: "php-fpm, psflip with [switch]",
        needs: &["php-fpm8.2"],
        upgrade: Upgrade::Psflip("php-fpm.toml"),
        load: "new=fcgi+unix://php.sock:/ping",
        pause: AT_ONCE,
    },
    tool(
        "Node, a rolling restart of its cluster",
        &["node"],
        "exec node field-cluster.js",
        "kill -HUP $SERVICE_PID",
    ),
    psflip("Node, psflip with [[listen]]", &["node"], "node.toml"),
    tool(
        // In the foreground: as a daemon it would outlive `--service`.
        "Node, pm2 reload of a careful server",
        &["node", "pm2"],
        "PM2_HOME=$PWD/pm2 exec pm2-runtime start field-pm2.config.js",
        "PM2_HOME=$PWD/pm2 exec pm2 reload app",
    ),
    proxy("Node, the same server, psflip --proxy", &["node"], &["node", "field-pm2.js"]),
];
