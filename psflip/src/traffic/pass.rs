//! How sockets are passed to a child: descriptor numbers and variables, computed without system calls.
//!
//! Several protocols can be used at once. A socket then has the same number for all of
//! them, except for descriptor 0 of `stdin`.

use crate::config::Protocol;

/// The first number of sd_listen_fds(3), after the standard streams.
const START: i32 = 3;

/// A socket to pass on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Its name for `LISTEN_FDNAMES`.
    pub name: String,
    /// Its key for `SERVER_STARTER_PORT`: by default the address in the format of Server::Starter
    /// (`0.0.0.0:80`, `[::]:80`, `/run/app.sock`).
    pub key: String,
    /// The protocols by which the child gets it.
    pub protocols: Vec<Protocol>,
    /// Its number, if the configuration gives one.
    pub fd: Option<i32>,
}

/// The number of each socket, which is identified by its index in the list, and the variables for the child.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Passing {
    /// Pairs of index and number.
    pub numbers: Vec<(usize, i32)>,
    /// Variables. `LISTEN_PID` is not among them: only the child knows its pid.
    pub variables: Vec<(&'static str, String)>,
    /// Whether `LISTEN_PID` must be set.
    pub listen_pid: bool,
    /// Variables whose names contain numbers.
    pub numbered: Vec<(String, String)>,
}

/// Assigns numbers and variables for all sockets.
#[must_use]
pub fn pass(sockets: &[Socket], generation: u64) -> Passing {
    let with = |protocol: Protocol| {
        sockets.iter().enumerate().filter(move |(_, socket)| socket.protocols.contains(&protocol))
    };
    let mut passing = Passing::default();
    // systemd's protocol needs the first numbers.
    let mut order: Vec<usize> = with(Protocol::ListenFds).map(|(place, _)| place).collect();
    let systemd = order.len();
    let others = sockets.iter().enumerate().filter(|(place, socket)| {
        !order.contains(place) && socket.protocols.iter().any(|protocol| *protocol != Protocol::Stdin)
    });
    let others: Vec<usize> = others.map(|(place, _)| place).collect();
    order.extend(others);
    let fixed = |place: usize| sockets.get(place).and_then(|socket| socket.fd);
    let given: Vec<i32> = order.iter().filter_map(|place| fixed(*place)).collect();
    let mut free = (START..).filter(|number| !given.contains(number));
    let numbers = order.iter().filter_map(|place| Some((*place, fixed(*place).or_else(|| free.next())?)));
    passing.numbers = numbers.collect();
    let number = |place: usize| {
        passing.numbers.iter().find(|(other, _)| *other == place).map_or(START, |(_, number)| *number)
    };

    let mut variables = Vec::new();
    let mut numbered = Vec::new();
    if systemd > 0 {
        let names: Vec<&str> = with(Protocol::ListenFds).map(|(_, socket)| &*socket.name).collect();
        variables.push(("LISTEN_FDS", systemd.to_string()));
        variables.push(("LISTEN_FDNAMES", names.join(":")));
    }
    let starter: Vec<String> = with(Protocol::ServerStarter)
        .map(|(place, socket)| format!("{}={}", socket.key, number(place)))
        .collect();
    if !starter.is_empty() {
        variables.push(("SERVER_STARTER_PORT", starter.join(";")));
        variables.push(("SERVER_STARTER_GENERATION", generation.to_string()));
    }
    let einhorn: Vec<i32> = with(Protocol::Einhorn).map(|(place, _)| number(place)).collect();
    if !einhorn.is_empty() {
        variables.push(("EINHORN_FD_COUNT", einhorn.len().to_string()));
        numbered
            .extend(einhorn.iter().enumerate().map(|(n, fd)| (format!("EINHORN_FD_{n}"), fd.to_string())));
    }
    let stdin = with(Protocol::Stdin).map(|(place, _)| (place, 0));
    let stdin: Vec<(usize, i32)> = stdin.filter(|pair| !passing.numbers.contains(pair)).collect();
    passing.numbers.extend(stdin);
    Passing { variables, numbered, listen_pid: systemd > 0, ..passing }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(name: &str, address: &str, protocols: &[Protocol]) -> Socket {
        Socket { name: name.to_owned(), key: address.to_owned(), protocols: protocols.to_vec(), fd: None }
    }

    #[test]
    fn without_sockets_no_variables_are_set() {
        // Contract: C3
        assert_eq!(pass(&[], 1), Passing::default());
    }

    #[test]
    fn systemds_sockets_come_first_and_each_protocol_gets_its_own() {
        // Contract: C3
        use Protocol::{Einhorn, ListenFds, ServerStarter, Stdin};
        let sockets = [
            socket("a", "0.0.0.0:80", &[ServerStarter, Einhorn]),
            socket("b", "/run/b.sock", &[Stdin]),
            socket("c", "[::]:81", &[ListenFds]),
            socket("d", "/run/d.sock", &[ServerStarter, ListenFds, Stdin]),
        ];
        let passing = pass(&sockets, 7);
        assert_eq!(passing.numbers, [(2, 3), (3, 4), (0, 5), (1, 0), (3, 0)]);
        assert!(passing.listen_pid);
        let variables: Vec<String> =
            passing.variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            variables,
            [
                "LISTEN_FDS=2",
                "LISTEN_FDNAMES=c:d",
                "SERVER_STARTER_PORT=0.0.0.0:80=5;/run/d.sock=4",
                "SERVER_STARTER_GENERATION=7",
                "EINHORN_FD_COUNT=1"
            ]
        );
        assert_eq!(passing.numbered, [("EINHORN_FD_0".to_owned(), "5".to_owned())]);
    }

    #[test]
    fn given_numbers_are_kept_and_the_others_are_numbered_around_them() {
        // Contract: C3
        use Protocol::{Einhorn, ServerStarter, Stdin};
        let given = |fd, socket| Socket { fd: Some(fd), ..socket };
        let sockets = [
            socket("a", "80", &[ServerStarter]),
            given(3, socket("b", "u81", &[ServerStarter])),
            given(5, socket("c", "@c", &[Einhorn])),
            given(0, socket("d", "/run/d.sock", &[ServerStarter, Stdin])),
            socket("e", "82", &[ServerStarter]),
        ];
        let passing = pass(&sockets, 1);
        assert_eq!(passing.numbers, [(0, 4), (1, 3), (2, 5), (3, 0), (4, 6)]);
        assert_eq!(passing.variables[0], ("SERVER_STARTER_PORT", "80=4;u81=3;/run/d.sock=0;82=6".to_owned()));
        assert_eq!(passing.numbered, [("EINHORN_FD_0".to_owned(), "5".to_owned())]);
    }
}
