//! What effects and messages do to the world.

use super::*;

impl World {
    pub(super) fn receive_from_predecessor(&mut self, index: usize) -> Option<Event> {
        match self.generations[index].from_predecessor.pop_front()? {
            PeerMessage::Acknowledge { upgrade_queued } => Some(Event::Acknowledged { upgrade_queued }),
            PeerMessage::Traffic => Some(Event::TrafficGranted),
            PeerMessage::Keep => Some(Event::KeepRequested),
            PeerMessage::Abort => Some(Event::Aborted),
            PeerMessage::Hurry => Some(self.stop_of_other(index)),
            PeerMessage::PassedOn => Some(Event::RequestPassedOn),
            PeerMessage::TurnGranted => Some(Event::TurnGranted),
            PeerMessage::Announced => Some(Event::Announced),
            PeerMessage::Prepared
            | PeerMessage::Baking
            | PeerMessage::Returned
            | PeerMessage::Ready
            | PeerMessage::PassedBack
            | PeerMessage::End
            | PeerMessage::StopPassedBack => None,
        }
    }

    pub(super) fn receive_from_successor(&mut self, index: usize) -> Option<Event> {
        match self.generations[index].from_successor.pop_front()? {
            PeerMessage::Prepared => Some(Event::SuccessorPrepared),
            PeerMessage::Baking => Some(Event::SuccessorBakes),
            PeerMessage::Returned => Some(Event::SuccessorReturned),
            PeerMessage::Ready => Some(Event::SuccessorReady),
            PeerMessage::PassedBack => Some(Event::RequestPassedBack),
            PeerMessage::End => Some(Event::EndRequested),
            PeerMessage::StopPassedBack => Some(self.stop_of_other(index)),
            PeerMessage::Acknowledge { .. }
            | PeerMessage::Traffic
            | PeerMessage::Keep
            | PeerMessage::Abort
            | PeerMessage::Hurry
            | PeerMessage::PassedOn
            | PeerMessage::Announced
            | PeerMessage::TurnGranted => None,
        }
    }

    /// A stop request that another generation passes on.
    fn stop_of_other(&mut self, index: usize) -> Event {
        let generation = &mut self.generations[index];
        generation.spares_child &= !is_second_stop(&generation.state);
        Event::StopRequested(ChildSignal::Send)
    }

    /// Sends to the successor; returns false if it does not read.
    fn send_on(&mut self, index: usize, message: PeerMessage) -> bool {
        let knows = self.generations[index].knows_successor;
        match self.generations.get_mut(index + 1) {
            Some(successor) if knows && successor.alive && successor.listens => {
                successor.from_predecessor.push_back(message);
                true
            }
            _ => false,
        }
    }

    fn send_back(&mut self, index: usize, message: PeerMessage) -> bool {
        if !self.generations[index].knows_predecessor || !self.generations[index - 1].alive {
            return false;
        }
        self.generations[index - 1].from_successor.push_back(message);
        true
    }

    /// Sends to an old generation that this one can reach.
    fn send_to_old(&mut self, to: usize, message: PeerMessage) -> bool {
        let is_there = self.generations[to].alive;
        if is_there {
            self.generations[to].from_successor.push_back(message);
            self.generations[to].was_ended |= message == PeerMessage::End;
        }
        is_there
    }

    /// The old generations that this one, which is the service, can reach: the oldest first.
    pub(super) fn old_generations(&self, index: usize) -> Vec<usize> {
        let generation = &self.generations[index];
        let predecessor = generation.knows_predecessor.then(|| index - 1);
        generation.older.iter().copied().chain(predecessor).collect()
    }

    /// The links to the old generations are the successor's from now on, with what was not read yet, and the
    /// service managers know it.
    pub(super) fn hand_old_generations_over(&mut self, index: usize) {
        if self.budget.most > 1 {
            self.send_on(index, PeerMessage::Announced);
        }
        let generation = &mut self.generations[index];
        generation.older.clear();
        generation.knows_predecessor = false;
        let mut unread: VecDeque<()> = std::mem::take(&mut generation.from_older);
        let passed_on = generation.from_predecessor.iter();
        unread.extend(passed_on.filter(|message| **message == PeerMessage::PassedOn).map(|_| ()));
        generation.from_predecessor.clear();
        if let Some(successor) = self.generations.get_mut(index + 1).filter(|successor| successor.alive) {
            successor.from_older.extend(unread);
        } else if !unread.is_empty() {
            self.open_requests = false; // the service is dead
        }
    }

    /// A generation that drains passes a request on, to whichever generation has the other end of its link.
    fn pass_on(&mut self, index: usize) -> bool {
        let next = self.generations.get(index + 1);
        if next.is_some_and(|next| next.alive && next.knows_predecessor && !next.committed) {
            return self.send_on(index, PeerMessage::PassedOn);
        }
        let reads = |other: &&mut Generation| other.alive && !other.committed && other.older.contains(&index);
        let reader = self.generations.iter_mut().find(reads);
        reader.map(|reader| reader.from_older.push_back(())).is_some()
    }

    pub(super) fn perform(&mut self, index: usize, fails: bool) -> Result<(), String> {
        let Some(effect) = self.generations[index].effects.pop_front() else { return Ok(()) };
        self.check_effect(index, effect)?;
        let generation = &mut self.generations[index];
        match effect {
            Effect::Prepare => generation.hook = true,
            Effect::AwaitPredecessorTree => generation.awaits_tree = Some(Neighbour::Predecessor),
            Effect::AwaitSuccessorTree => generation.awaits_tree = Some(Neighbour::Successor),
            Effect::StartChild => {
                generation.child = ChildState::Launching { signalled: false };
                generation.owes_child = false;
            }
            Effect::StartProbing => (generation.probing, generation.settle) = (true, Settle::No),
            Effect::StartSettling => generation.settle = Settle::UnderWay,
            Effect::StartWatching => generation.watching = true,
            Effect::StopProbing => (generation.probing, generation.watching) = (false, false),
            Effect::SignalChild => {
                // A child that has not started yet gets the signal when it starts.
                if let ChildState::Runs { signalled, .. } | ChildState::Launching { signalled } =
                    &mut generation.child
                {
                    *signalled = true;
                }
                generation.owes_child |= matches!(generation.state.phase, Phase::GivingWay { .. });
            }
            Effect::KillChild => match &mut generation.child {
                ChildState::Runs { killed, .. } => *killed = true,
                // This kills its keeper, which looks like an exit of the child.
                ChildState::Launching { .. } => {
                    generation.child = ChildState::Runs { signalled: true, killed: true }
                }
                ChildState::None | ChildState::Left { .. } | ChildState::Unkillable | ChildState::Gone => {}
            },
            Effect::SignalOrphans => {}
            Effect::Relay(RelayOrder::Accept | RelayOrder::Stay) => {
                generation.relay = RelayState::Accepts;
                generation.spares_child = false;
            }
            Effect::Relay(order) => match generation.relay {
                // It answers at once, which is the same as a report that nobody waits for.
                RelayState::Unused if awaits_relay(&generation.state) => {
                    generation.feedback.push_back(Event::RelayDrained);
                }
                RelayState::Unused => {}
                RelayState::Accepts | RelayState::Holds | RelayState::Left => {
                    let holds = order == RelayOrder::Hold;
                    generation.relay = if holds { RelayState::Holds } else { RelayState::Left };
                    generation.spares_child = order != RelayOrder::Close
                        && matches!(generation.child, ChildState::Launching { .. } | ChildState::Runs { .. });
                }
            },
            Effect::KillOrphans => {
                if let ChildState::Left { killed } = &mut generation.child {
                    *killed = true;
                }
            }
            Effect::TakePidfile => self.take_pidfile(index, fails),
            Effect::RunHook(Hook::Promote) => generation.hook = true,
            Effect::RunHook(Hook::Precheck | Hook::Promoted | Hook::Failed | Hook::RolledBack) => {}
            Effect::KillHook => generation.hook = false,
            Effect::SwitchTraffic => {
                generation.feedback.push_back(if fails {
                    Event::TrafficRefused
                } else {
                    Event::TrafficSwitched { bakes: self.budget.bakes }
                });
                if !fails {
                    self.traffic = Some(index);
                }
            }
            Effect::GiveBack => {
                generation.holds_pidfile = false;
                let knows = generation.knows_predecessor;
                if self.pidfile == Some(index) {
                    self.pidfile = knows.then(|| index - 1);
                }
                if self.traffic == Some(index) && knows {
                    self.traffic = Some(index - 1);
                }
            }
            Effect::TakeBack => {
                if generation.holds_pidfile {
                    self.pidfile = Some(index);
                }
                self.traffic = Some(index);
            }
            Effect::ReportPrepared => {
                self.send_back(index, PeerMessage::Prepared);
            }
            // A successor that can't be reached is killed.
            Effect::GrantTurn => {
                if !fails {
                    self.send_on(index, PeerMessage::TurnGranted);
                } else if generation.knows_successor && self.generations[index + 1].alive {
                    self.kill(index + 1);
                }
            }
            Effect::ReportReady
            | Effect::ReportBaking
            | Effect::ReportReturned
            | Effect::Report(Notice::Baking)
                if fails =>
            {
                generation.feedback.push_back(Event::ReadyNotSent);
            }
            Effect::ReportReady => {
                self.send_back(index, PeerMessage::Ready);
            }
            Effect::ReportBaking => {
                self.send_back(index, PeerMessage::Baking);
            }
            Effect::ReportReturned => {
                self.send_back(index, PeerMessage::Returned);
            }
            Effect::GrantTraffic if fails => generation.feedback.push_back(Event::RollbackRequested),
            Effect::GrantTraffic => {
                self.send_on(index, PeerMessage::Traffic);
            }
            Effect::PassKeep => {
                self.send_on(index, PeerMessage::Keep);
            }
            Effect::RollBackSuccessor => {
                self.send_on(index, PeerMessage::Abort);
            }
            Effect::Withdraw => {
                generation.listens = false;
                let passed_on = generation.from_predecessor.contains(&PeerMessage::PassedOn);
                let acknowledged = generation.from_predecessor.iter().find_map(|message| match message {
                    PeerMessage::Acknowledge { upgrade_queued } => Some(*upgrade_queued || passed_on),
                    PeerMessage::Traffic
                    | PeerMessage::Keep
                    | PeerMessage::Abort
                    | PeerMessage::Hurry
                    | PeerMessage::PassedOn
                    | PeerMessage::Announced
                    | PeerMessage::TurnGranted
                    | PeerMessage::Prepared
                    | PeerMessage::Baking
                    | PeerMessage::Returned
                    | PeerMessage::Ready
                    | PeerMessage::PassedBack
                    | PeerMessage::End
                    | PeerMessage::StopPassedBack => None,
                });
                generation.from_predecessor.clear();
                generation.feedback.push_back(match acknowledged {
                    Some(upgrade_queued) => Event::Acknowledged { upgrade_queued },
                    None => Event::Withdrawn,
                });
            }
            Effect::PassRequestBack => {
                if !self.send_back(index, PeerMessage::PassedBack) {
                    self.open_requests = false; // refused, with a log line
                }
            }
            Effect::PassStopBack => {
                if generation.state.has_taken_over() || !generation.knows_predecessor {
                    for old in self.old_generations(index) {
                        self.stopping |= self.send_to_old(old, PeerMessage::StopPassedBack);
                    }
                } else {
                    self.stopping |= self.send_back(index, PeerMessage::StopPassedBack);
                }
            }
            Effect::EndOldest => {
                let oldest = self.old_generations(index).first().copied();
                if let Some(oldest) = oldest.filter(|oldest| !self.generations[*oldest].was_ended) {
                    self.send_to_old(oldest, PeerMessage::End);
                }
            }
            Effect::EndDraining => {
                for old in self.old_generations(index) {
                    self.send_to_old(old, PeerMessage::End);
                }
            }
            Effect::KillEnding => {
                for old in self.old_generations(index) {
                    if self.generations[old].was_ended {
                        // As with any kill: requests that it had not passed on are lost.
                        self.open_requests = false;
                        self.generations[old].die();
                    }
                }
            }
            Effect::PassRequestOn => {
                if !self.pass_on(index) {
                    self.open_requests = false;
                }
            }
            Effect::StartSuccessor => {
                self.open_requests = false;
                if fails {
                    generation.feedback.push_back(Event::SuccessorNotStarted);
                } else {
                    generation.knows_successor = true;
                    self.generations.truncate(index + 1);
                    let exclusive = self.budget.is_exclusive;
                    let role = if exclusive { Role::Exclusive } else { Role::Successor };
                    let older = self.old_generations(index);
                    let old = OldGenerations {
                        draining: older.len() as u8,
                        most: self.budget.most,
                        announcing: false,
                    };
                    self.generations.push(Generation { older, ..Generation::new(role, old) });
                }
            }
            Effect::Acknowledge { upgrade_queued } => {
                let sent = self.send_on(index, PeerMessage::Acknowledge { upgrade_queued });
                let answer = if sent { Event::Committed } else { Event::NotCommitted };
                self.generations[index].feedback.push_back(answer);
            }
            Effect::AbortSuccessor => {
                self.send_on(index, PeerMessage::Abort);
            }
            Effect::HurrySuccessor => {
                self.send_on(index, PeerMessage::Hurry);
            }
            Effect::KillSuccessor => {
                if generation.knows_successor && self.generations[index + 1].alive {
                    self.kill(index + 1);
                    self.generations[index + 1].hangs = fails;
                }
            }
            Effect::Arm(timer) => {
                if !generation.timers.contains(&timer) {
                    generation.timers.push(timer);
                    generation.timers.sort_unstable();
                }
            }
            Effect::Disarm(timer) => generation.timers.retain(|armed| *armed != timer),
            Effect::Report(Notice::RequestRefused) => self.open_requests = false,
            Effect::Report(Notice::StopIgnored) => {
                self.stopping = false;
                generation.has_to_wait = false;
            }
            Effect::Report(Notice::SurvivedKill) => generation.reported_survivors = true,
            Effect::Report(Notice::SuccessorSurvivedKill) => generation.knows_successor = false,
            Effect::Report(_) | Effect::AnnounceSuccessor => {}
            Effect::Exit(_) => {
                // A request that arrives while the process exits is lost, but the service stops anyway.
                if !generation.from_predecessor.is_empty() || !generation.from_successor.is_empty() {
                    self.open_requests = false;
                }
                if self.pidfile == Some(index) {
                    self.pidfile = None;
                }
                generation.die();
            }
        }
        Ok(())
    }

    /// Kills by SIGKILL. Queued requests, unread messages and unperformed effects are lost.
    pub(super) fn kill(&mut self, index: usize) {
        self.open_requests = false;
        self.stopping = false; // perhaps no other process knew of it
        let has_ghost = self.budget.is_exclusive && self.generations[index].has_tree();
        self.generations[index].die();
        self.generations[index].has_ghost = has_ghost;
    }

    fn take_pidfile(&mut self, index: usize, fails: bool) {
        // With a predecessor, by agreement; without one, only from a dead process.
        let by_agreement = self.generations[index].knows_predecessor;
        let free = self.pidfile.is_none_or(|named| !self.generations[named].alive);
        let taken = !fails && (by_agreement || free);
        if taken {
            self.pidfile = Some(index);
            self.generations[index].holds_pidfile = true;
        }
        self.generations[index].feedback.push_back(if taken {
            Event::PidfileTaken
        } else {
            Event::PidfileRefused
        });
    }
}
