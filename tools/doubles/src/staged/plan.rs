//! The plan: which calls fail, and where to pause. Text, one instruction per line, fields separated by
//! blanks:
//!
//! ```text
//! id 7                            counts of calls begin anew with every new number
//! old 4711                        the pid of the psflip whose processes are `old`; all others are `new`
//! record                          note every call and step in the trace
//! fail ROLE CALL NTH ERRNO        the nth call of this kind in this role (from 1) fails; `NTH+`: and every later one
//! pause ROLE MOMENT NAME          wait at this step
//! ```
//!
//! [`super::role`] lists the roles, [`psflip::testing::sys::seam::Call`] the calls, and [`psflip::testing::sys::seam::Moment`]
//! the moments, by their names there; `ERRNO` is a number.

use std::path::Path;

use nix::errno::Errno;
use psflip::testing::sys::seam::{Call, Moment};

use super::role::Role;

pub(super) struct Plan {
    pub(super) id: u64,
    pub(super) old: u32,
    pub(super) records: bool,
    orders: Vec<Order>,
}

enum Order {
    Fail { role: String, call: String, nth: usize, ever: bool, errno: i32 },
    Pause { role: String, moment: String, name: String },
}

impl Plan {
    /// The current plan; `None` if there is none.
    pub(super) fn read(folder: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(folder.join("plan")).ok()?;
        let mut plan = Self { id: 0, old: 0, records: false, orders: Vec::new() };
        for line in text.lines() {
            assert!(plan.take(line).is_some(), "the plan has a line that is no order: `{line}`");
        }
        Some(plan)
    }

    fn take(&mut self, line: &str) -> Option<()> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        match *words {
            [] => {}
            ["id", number] => self.id = number.parse().ok()?,
            ["old", pid] => self.old = pid.parse().ok()?,
            ["record"] => self.records = true,
            ["fail", role, call, nth, errno] => self.orders.push(Order::Fail {
                role: role.to_owned(),
                call: call.to_owned(),
                nth: nth.trim_end_matches('+').parse().ok()?,
                ever: nth.ends_with('+'),
                errno: errno.parse().ok()?,
            }),
            ["pause", role, moment, name] => self.orders.push(Order::Pause {
                role: role.to_owned(),
                moment: moment.to_owned(),
                name: name.to_owned(),
            }),
            _ => return None,
        }
        Some(())
    }

    /// The error with which this call is to fail.
    pub(super) fn fault(&self, role: Role, call: Call, count: usize) -> Option<Errno> {
        self.orders.iter().find_map(|order| match order {
            Order::Fail { role: of, call: named, nth, ever, errno }
                if *of == role.to_string()
                    && *named == format!("{call:?}")
                    && (count == *nth || *ever && count > *nth) =>
            {
                Some(Errno::from_raw(*errno))
            }
            Order::Fail { .. } | Order::Pause { .. } => None,
        })
    }

    /// Whether to pause at this step.
    pub(super) fn pauses(&self, role: Role, at: Moment, step: &str) -> bool {
        self.orders.iter().any(|order| match order {
            Order::Pause { role: of, moment, name } => {
                *of == role.to_string() && *moment == format!("{at:?}") && name == step
            }
            Order::Fail { .. } => false,
        })
    }
}
