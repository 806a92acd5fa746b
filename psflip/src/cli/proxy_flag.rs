//! `psflip run --proxy URL`: a proxy, a port for the child and a health check of it in one flag.

use clap::ArgMatches;

use crate::config;
use crate::config::proxy_flag::FREE_PORT;

/// Adds each `--proxy`, and what it stands for besides: a free port as `PORT` of the child, and, if
/// `needs_check`, a health check of the address that it forwards to, whose kind is returned.
pub(super) fn apply(
    matches: &ArgMatches,
    needs_check: bool,
    flags: &mut config::Flags,
) -> Option<&'static str> {
    let urls: Vec<&String> = matches.get_many("proxy")?.collect();
    let flag = |url: &str| format!("--proxy {url}");
    let given = |name: &str| matches.get_many::<String>(name).into_iter().flatten();
    let set = given("env").find_map(|variable| variable.strip_prefix("PORT="));
    let own = format!("127.0.0.1:{}", set.unwrap_or("{{ local('port') }}"));
    let mut first = None;
    for url in &urls {
        let forward = flags.proxy("--proxy", url, &own, has_ipv6);
        first = first.or(Some((*url, forward)));
    }
    let (url, forward) = first?;
    if set.is_none() && urls.iter().any(|url| !url.contains(",forward=")) {
        flags.text(&flag(url), "locals.port", FREE_PORT);
        if !given("env-remove").any(|name| name == "PORT") {
            flags.variable(&flag(url), "PORT", Some("{{ local('port') }}"));
        }
    }
    if !needs_check {
        return None;
    }
    let address = forward.trim_start_matches('"');
    let is_unix = address.starts_with("unix:") || address.starts_with(['/', '@', '.']);
    let kind = if is_unix { "unix" } else { "tcp" };
    let key = if is_unix { "healthcheck.unix.path" } else { "healthcheck.tcp.address" };
    flags.literal(&flag(url), key, &forward);
    Some(kind)
}

/// Whether a socket of this host can listen on all IPv6 addresses.
fn has_ipv6() -> bool {
    std::net::UdpSocket::bind((std::net::Ipv6Addr::UNSPECIFIED, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::time::SystemTime;

    use clap::{Args as _, Command, FromArgMatches as _};

    use super::super::flags::Source;
    use crate::config::{Document, EnvChange, Forward, Generation, Health, Plan, Slot};

    /// The configuration of `psflip run FLAGS -- server`.
    fn document(flags: &str) -> Document {
        let words = ["run"].into_iter().chain(flags.split(' ')).chain(["--", "server"]);
        let matches = Source::augment_args(Command::new("run")).get_matches_from(words);
        let Ok(Source::Flags(flags)) = Source::from_arg_matches(&matches) else { panic!("{flags}") };
        Document::of_flags(&flags)
    }

    fn plan(document: &Document, number: u64) -> Result<Plan, String> {
        let env = |_: &str| None::<OsString>;
        let slot = if number % 2 == 1 { Slot::A } else { Slot::B };
        let generation = Generation { number, slot, started: SystemTime::UNIX_EPOCH, env: &env };
        document.plan(&generation).map_err(|errors| errors.to_string())
    }

    fn port(plan: &Plan) -> u16 {
        match plan.proxies[0].forward {
            Forward::Tcp(address) => address.port(),
            Forward::Unix(_) => panic!("{plan}"),
        }
    }

    #[test]
    fn a_proxy_brings_a_port_and_a_health_check() {
        let mut text = String::new();
        for flags in [
            "--proxy http://0.0.0.0:8080",
            "--proxy tcp://127.0.0.1:5432,drain=5s,send_proxy_protocol=v2 --healthcheck-interval 50ms",
            "--proxy http://0.0.0.0:8080 --healthcheck-http /up --env A=b",
            "--proxy http://0.0.0.0:8080,pool=8 --healthcheck-notify",
            "--proxy http://0.0.0.0:8080 --env PORT=3000",
            "--proxy http://0.0.0.0:8080 --env-remove PORT",
            "--proxy fastcgi+unix:///run/a.sock,mode=0660,backlog=16,forward=unix:///run/b.sock",
            "--proxy http://127.0.0.1:80 --proxy http+unix:///run/a.sock,protocol=tcp --listen udp://[::1]:53",
        ] {
            text += &format!("{flags}\n{}\n", document(flags).text_of_flags().unwrap());
            assert!(plan(&document(flags), 1).is_ok(), "{:?}", plan(&document(flags), 1));
        }
        insta::assert_snapshot!("flag_proxy", text);
    }

    #[test]
    fn each_generation_has_a_port_of_its_own_which_its_child_gets() {
        let document = document("--proxy http://127.0.0.1:8080 --healthcheck-http /up");
        let (first, second) = (plan(&document, 1).unwrap(), plan(&document, 2).unwrap());
        assert_ne!(port(&first), port(&second));
        for plan in [first, second] {
            let port = port(&plan);
            assert_eq!(plan.env, [EnvChange::Set("PORT".to_owned(), port.to_string())]);
            let Health::Http { request, .. } = &plan.health else { panic!("{plan}") };
            assert_eq!(request.url, format!("http://127.0.0.1:{port}/up"));
        }
    }

    #[test]
    fn errors_name_the_flag() {
        // Contract: X1
        let mut text = String::new();
        for flags in [
            "--proxy http://localhost:80",
            "--proxy https://0.0.0.0:443",
            "--proxy http://0.0.0.0:80/path",
            "--proxy udp://0.0.0.0:53",
            "--proxy http://0.0.0.0:80,drian=5s",
            "--proxy http://0.0.0.0:80,forwarded=none,forwarded=off",
            "--proxy http://0.0.0.0:80 --env PORT=http",
            "--proxy http://0.0.0.0:80 --proxy tcp://0.0.0.0:80",
            "--proxy http://0.0.0.0:80,forward=127.0.0.1:80",
            "--proxy fastcgi://0.0.0.0:80 --healthcheck-http /up",
            "--listen tcp://0.0.0.0:80 --healthcheck-http /up",
        ] {
            text += &format!("{}\n\n", plan(&document(flags), 1).unwrap_err());
        }
        insta::assert_snapshot!("flag_proxy_refused", text);
    }
}
