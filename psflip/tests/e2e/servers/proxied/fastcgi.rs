//! PHP behind an nginx that keeps its FastCGI connections, with a proxy between the two. nginx runs all the
//! time, repeats no request, and logs no complaint.

use super::super::load::{Application, clients};
use super::super::php::FPM_PROGRAM;
use super::{HTTP, Proxied, Server};
use crate::traffic::nginx::Nginx;
use crate::traffic::ports::Reserved;

/// The content of nginx's block `http`, for a sandbox's directory.
fn nginx_in(folder: &str) -> String {
    format!(
        "upstream app {{ server unix:{folder}/app.sock; keepalive 8; }}\n\
         server {{\n\
         listen unix:{folder}/web.sock;\n\
         location / {{\n\
         fastcgi_pass app;\n\
         fastcgi_keep_conn on;\n\
         fastcgi_next_upstream off;\n\
         fastcgi_param SCRIPT_FILENAME app.php;\n\
         fastcgi_param QUERY_STRING $query_string;\n\
         fastcgi_param REQUEST_METHOD $request_method;\n\
         fastcgi_param CONTENT_TYPE $content_type;\n\
         fastcgi_param CONTENT_LENGTH $content_length;\n\
         fastcgi_param REDIRECT_STATUS 200;\n\
         }}\n\
         }}\n"
    )
}

#[track_caller]
fn loses_nothing(server: Server, forward: &str) {
    let Some(proxied) = Proxied::start_between(server, Reserved::new(), "unix://app.sock", forward) else {
        return;
    };
    let nginx = Nginx::start(&proxied.sandbox, &nginx_in(&proxied.sandbox.dir().display().to_string()));
    let report = proxied.flip(clients(proxied.sandbox.path("web.sock"), Application::Php), || ());
    assert_eq!(nginx.stop(), [""; 0], "nginx complains\n{report}");
    proxied.stop();
    report.assert_no_failures();
    proxied.assert_all_served();
    proxied.assert_passed_on(&report);
}

#[test]
fn load_proxied_php_fpm_loses_nothing() {
    // Contract: T3, T4, T6, T7
    let cmd = &[
        FPM_PROGRAM,
        "--nodaemonize",
        "--force-stderr",
        "--prefix=.",
        "--fpm-config=php-fpm.conf",
        "--allow-to-run-as-root",
    ];
    let config = "[healthcheck.fcgi]\naddress = \"unix:php-{{ generation() }}.sock\"\nscript = \"app.php\"\ninterval = \"20ms\"\n";
    let (name, files) = ("php-fpm", &["app.php", "php-fpm.conf"]);
    let server = Server { name, needs: &["nginx"], files, cmd, protocol: "fastcgi", config, ..HTTP };
    loses_nothing(server, "unix://php-{{ generation() }}.sock");
}

#[test]
fn load_proxied_php_cgi_loses_nothing() {
    // Contract: T3, T4, T6, T7
    let cmd = &["env", "PHP_FCGI_CHILDREN=4", "php-cgi", "-b", "127.0.0.1:{{ local('port') }}"];
    let config = "[healthcheck.fcgi]\naddress = \"127.0.0.1:{{ local('port') }}\"\nscript = \"app.php\"\ninterval = \"20ms\"\n";
    let (name, needs) = ("php-cgi", &["nginx", "php-cgi"]);
    let server = Server { name, needs, files: &["app.php"], cmd, protocol: "fastcgi", config, ..HTTP };
    loses_nothing(server, "127.0.0.1:{{ local('port') }}");
}
