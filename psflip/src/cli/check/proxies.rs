//! Warnings about `[[proxy]]`: a health check that the old child would answer, an address that two children
//! would share, a child that is not told its address, times for what is under way.

use std::time::Duration;

use crate::config::{
    Endpoint, EnvChange, Forward, Health, Plan, Proxy, ProxyKind, Warning, is_reached, spell,
};

/// systemd's default of `TimeoutStopSec=`, the longest that a common supervisor waits for a stop by default.
const USUAL_STOP_LIMIT: Duration = Duration::from_secs(90);

/// Warnings of likely outages. `next` is the plan of the next generation.
pub(super) fn of_outages(plan: &Plan, next: Option<&Plan>) -> Vec<Warning> {
    let mut found = Vec::new();
    found.extend(old_child_is_asked(plan));
    for (index, proxy) in plan.proxies.iter().enumerate() {
        if plan.upgrade.overlap && is_constant(proxy, next) {
            found.push(Warning {
                key: format!("proxy.{index}.forward"),
                message: format!(
                    "the proxy for `{}` forwards to `{}` in every generation, where the new child can't listen while the old one does: upgrades would fail, or clients would reach both children",
                    proxy.socket.address, proxy.forward
                ),
                help: match proxy.forward {
                    Forward::Tcp(_) => {
                        "give each generation a port of its own, in `[locals]`, and pass it to the child: `{{ free_port('20000-29999') }}`"
                    }
                    Forward::Unix(_) => {
                        "give each generation a path of its own, and pass it to the child: `unix:///run/app/{{ blue_green() }}.sock`"
                    }
                }
                .to_owned(),
            });
        }
    }
    found
}

/// What to add if nothing probes the child: a health check that fits what it speaks, and where it listens. A
/// path alone is a URL only if all proxies forward to one address.
pub(super) fn check_of_child(proxies: &[Proxy]) -> &'static str {
    let is_one = proxies.iter().all(|proxy| proxy.forward == proxies[0].forward);
    let is_fastcgi = proxies.iter().any(|proxy| proxy.protocol == ProxyKind::Fastcgi);
    let is_unix = proxies.iter().all(|proxy| matches!(proxy.forward, Forward::Unix(_)));
    match (is_fastcgi, is_one, is_unix) {
        (true, ..) => {
            "add a health check: `[healthcheck.fcgi]` with the `address` of `forward` requests a `script` of the new child; an upgrade then waits only until that succeeds"
        }
        (false, true, true) => {
            "add a health check: `[healthcheck.http]` with `url = \"/up\"` requests this path of the new child, `[healthcheck.unix]` with the `path` of `forward` only connects to it; an upgrade then waits only until that succeeds"
        }
        (false, true, false) => {
            "add a health check: `[healthcheck.http]` with `url = \"/up\"` requests this path of the new child, `[healthcheck.tcp]` with the `address` of `forward` only connects to it; an upgrade then waits only until that succeeds"
        }
        (false, false, true) => {
            "add a health check: `[healthcheck.unix]` with the `path` of `forward` connects to the new child; an upgrade then waits only until that succeeds"
        }
        (false, false, false) => {
            "add a health check: `[healthcheck.tcp]` with the `address` of `forward` connects to the new child; an upgrade then waits only until that succeeds"
        }
    }
}

/// All other warnings.
pub(super) fn of(plan: &Plan, next: Option<&Plan>) -> Vec<Warning> {
    let mut found = Vec::new();
    for (index, proxy) in plan.proxies.iter().enumerate() {
        let key = |name: &str| format!("proxy.{index}.{name}");
        if !is_constant(proxy, next) && !is_told(plan, &proxy.forward) {
            found.push(Warning {
                key: key("forward"),
                message: format!(
                    "neither `cmd` nor `[env]` contains the address `{}`: how does the child know where to listen?",
                    proxy.forward
                ),
                help: "set it in `[locals]` and pass it on, for example `PORT = \"{{ local('port') }}\"` in `[env]`".to_owned(),
            });
        }
        if proxy.drain.is_zero() {
            found.push(Warning {
                key: key("drain"),
                message: "the child gets `shutdown.signal` while it is still answering, at every promotion and stop: unless it finishes by itself, requests are broken off".to_owned(),
                help: "set the longest time that a request may take; an old child without requests is stopped at once anyway".to_owned(),
            });
        } else if proxy.drain > USUAL_STOP_LIMIT {
            found.push(Warning {
                key: key("drain"),
                message: format!(
                    "a stop may take {} and then `shutdown.timeout`: systemd kills a service after `TimeoutStopSec=`, by default {}, and `docker stop` after 10s",
                    spell(proxy.drain),
                    spell(USUAL_STOP_LIMIT)
                ),
                help: "make it shorter, or that limit longer".to_owned(),
            });
        }
        let speaks = matches!(plan.health, Health::Http { .. } | Health::Fcgi { .. });
        if proxy.send_proxy_protocol.is_some() && speaks && endpoints(&plan.health).contains(&proxy.forward) {
            found.push(Warning {
                key: key("send_proxy_protocol"),
                message: "the health check asks the same address without a PROXY protocol header, which the child expects there".to_owned(),
                help: "let the check ask another address of the child, or use `[healthcheck.tcp]` or `[healthcheck.notify]`".to_owned(),
            });
        }
    }
    found
}

/// A health check of the address at which clients connect.
fn old_child_is_asked(plan: &Plan) -> Option<Warning> {
    let asked = endpoints(&plan.health);
    let is_asked = |proxy: &&Proxy| asked.iter().any(|to| is_reached(to, &proxy.socket));
    let proxy = plan.proxies.iter().find(is_asked)?;
    Some(Warning {
        key: "healthcheck".to_owned(),
        message: format!(
            "the health check asks `{}`, which the proxy forwards to the old child until the promotion: a new child that does not serve would be promoted, and the first start could fail",
            proxy.socket.address
        ),
        help: "ask the new child's own address, that of `forward`; `url = \"/up\"` in `[healthcheck.http]`, a path alone, means that".to_owned(),
    })
}

/// Where the health check connects to.
fn endpoints(health: &Health) -> Vec<Forward> {
    let of = |target: &Endpoint| match target {
        Endpoint::Tcp(addresses) => addresses.iter().copied().map(Forward::Tcp).collect(),
        Endpoint::Unix(path) => vec![Forward::Unix(path.clone())],
    };
    match health {
        Health::Tcp { addresses, .. } => addresses.iter().copied().map(Forward::Tcp).collect(),
        Health::Unix { path, .. } => vec![Forward::Unix(path.clone())],
        Health::Http { request, .. } => of(&request.target),
        Health::Fcgi { request, .. } => of(&request.target),
        Health::Alive { .. } | Health::Command { .. } | Health::Docker { .. } | Health::Notify { .. } => {
            Vec::new()
        }
    }
}

/// Whether the next generation's child would have the same address.
fn is_constant(proxy: &Proxy, next: Option<&Plan>) -> bool {
    let others = next.into_iter().flat_map(|next| &next.proxies);
    others.into_iter().any(|other| other.forward == proxy.forward)
}

/// Whether the child's command or environment contains this address, in any form.
fn is_told(plan: &Plan, forward: &Forward) -> bool {
    let needle = match forward {
        Forward::Tcp(address) => address.port().to_string(),
        // The program may write the path in another way: relative, or below a directory of its own.
        Forward::Unix(path) => {
            let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
            name.trim_start_matches('@').to_owned()
        }
    };
    let variables = plan.env.iter().filter_map(|change| match change {
        EnvChange::Set(_, value) => Some(value),
        EnvChange::Remove(_) => None,
    });
    plan.cmd.iter().chain(variables).any(|text| {
        text.match_indices(&needle).any(|(at, _)| {
            let is_digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
            let (before, after) = (text[..at].chars().next_back(), text[at + needle.len()..].chars().next());
            !is_digit(before) && !is_digit(after)
        })
    })
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::time::SystemTime;

    use super::{of, of_outages};
    use crate::config::{Generation, Plan, Slot, parse};

    fn plan(text: &str, number: u64, slot: Slot) -> Plan {
        let env = |_: &str| None::<OsString>;
        let generation = Generation { number, slot, started: SystemTime::UNIX_EPOCH, env: &env };
        parse(
            "app.toml",
            &format!("cmd = ['x', '--port', '{{{{ ab(\"3001\", \"3002\") }}}}']\n{text}"),
            &generation,
        )
        .unwrap_or_else(|errors| panic!("{errors}"))
    }

    /// The keys of the warnings about this text: of outages, and of the rest.
    fn keys(text: &str) -> (Vec<String>, Vec<String>) {
        let (first, next) = (plan(text, 1, Slot::A), plan(text, 2, Slot::B));
        let keys =
            |warnings: Vec<crate::config::Warning>| warnings.into_iter().map(|warning| warning.key).collect();
        (keys(of_outages(&first, Some(&next))), keys(of(&first, Some(&next))))
    }

    fn outages(text: &str) -> Vec<String> {
        let (outages, rest) = keys(text);
        assert_eq!(rest, [""; 0], "{text}");
        outages
    }

    fn rest(text: &str) -> Vec<String> {
        let (outages, rest) = keys(text);
        assert_eq!(outages, [""; 0], "{text}");
        rest
    }

    /// A proxy whose child has the port of its command.
    const GOOD: &str =
        "[[proxy]]\nlisten = '0.0.0.0:8080'\nforward = '127.0.0.1:{{ ab(\"3001\", \"3002\") }}'\n";

    #[test]
    fn a_proxy_with_an_address_for_each_generation_is_fine() {
        for check in [
            "",
            "[healthcheck.http]\nurl = '/up'",
            "[healthcheck.tcp]\naddress = '127.0.0.1:{{ ab(\"3001\", \"3002\") }}'",
            // Another address of the host, on the same port: it may be a container's.
            "[healthcheck.tcp]\naddress = '172.17.0.2:8080'",
        ] {
            assert_eq!(rest(&format!("{GOOD}{check}")), [""; 0], "{check}");
        }
    }

    #[test]
    fn a_health_check_of_the_address_of_clients_is_an_outage() {
        let unix = "[[proxy]]\nlisten = '/run/a'\nforward = '127.0.0.1:{{ ab(\"3001\", \"3002\") }}'\n";
        for text in [
            format!("{GOOD}[healthcheck.tcp]\naddress = 'localhost:8080'"),
            format!("{GOOD}[healthcheck.http]\nurl = 'http://127.0.0.1:8080/up'"),
            format!("{unix}[healthcheck.http]\nurl = 'unix:/run/a:/up'"),
            format!("{unix}[healthcheck.unix]\npath = '/run/a'"),
            format!("{unix}[healthcheck.fcgi]\naddress = '/run/a'\nscript = '/ping'"),
        ] {
            assert_eq!(outages(&text), ["healthcheck"], "{text}");
        }
    }

    #[test]
    fn an_address_that_two_children_would_share_is_an_outage() {
        for forward in ["127.0.0.1:3000", "unix:///run/b.sock", "@b"] {
            let text = format!("[[proxy]]\nlisten = '0.0.0.0:8080'\nforward = '{forward}'");
            assert_eq!(outages(&text), ["proxy.0.forward"], "{forward}");
        }
        // The two addresses change places.
        let text = "[[proxy]]\nlisten = '@a'\nforward = '@{{ ab(1, 2) }}'\n[[proxy]]\nlisten = '@b'\nforward = '@{{ ab(2, 1) }}'";
        assert_eq!(
            outages(&text.replace("(1, 2)", "(\"1\", \"2\")").replace("(2, 1)", "(\"2\", \"1\")")),
            ["proxy.0.forward", "proxy.1.forward"]
        );
    }

    #[test]
    fn a_child_that_does_not_get_its_address_is_reported() {
        for forward in ["127.0.0.1:{{ ab(\"300\", \"13002\") }}", "unix:///run/{{ blue_green() }}.sock"] {
            let text = format!("[[proxy]]\nlisten = '@a'\nforward = '{forward}'");
            assert_eq!(rest(&text), ["proxy.0.forward"], "{forward}");
            // Another form of the same address.
            let told = forward.replace("127.0.0.1", "localhost").replace("unix:///run/", "tmp/");
            assert_eq!(rest(&format!("{text}\n[env]\nLISTEN = '{told}'")), [""; 0], "{forward}");
        }
    }

    #[test]
    fn times_that_break_off_requests_are_reported() {
        for (drain, expected) in [("0s", true), ("1ms", false), ("90s", false), ("91s", true)] {
            let found = rest(&format!("{GOOD}drain = '{drain}'"));
            assert_eq!(found == ["proxy.0.drain"], expected, "{drain}: {found:?}");
        }
    }

    #[test]
    fn a_health_check_without_the_header_that_the_child_expects_is_reported() {
        let text = format!("{GOOD}send_proxy_protocol = 'v2'\n");
        assert_eq!(rest(&format!("{text}[healthcheck.http]\nurl = '/'")), ["proxy.0.send_proxy_protocol"]);
        assert_eq!(rest(&format!("{text}[healthcheck.http]\nurl = 'http://127.0.0.1:9/'")), [""; 0]);
    }
}
