//! The command's life, within the lease's.

use std::{pin::pin, time::Duration};

use leasehold::{Client, Clock as _, Lease, LeaseLost, LossReason, SystemClock};
use rustix::process::{Signal, getpid, kill_process};

use super::{
    guarded::{Ended, Guarded, Said},
    keep::{keep, revoked},
    teller::Teller,
};
use crate::{
    args::RunArgs,
    exit::{self, Failed},
    family,
    group::Group,
    guard,
    seam::{self, Either, Signals, select2},
    terminal::Terminal,
};

/// The guard is told a later deadline so often within a ttl.
const TELLS_PER_TTL: u32 = 24;

/// Stops this process until it is told to go on, unless nobody could tell it.
pub(super) fn stop_self() {
    if family::is_a_job() {
        let _ = kill_process(getpid(), Signal::STOP);
    }
}

/// Why the wait for the command was interrupted.
enum Heard {
    Said(Said),
    Signal(Signal),
    Lost(LeaseLost),
    Revoked(String),
    Time,
}

/// The command while it runs.
struct Held<'a> {
    guarded: Guarded,
    lease: &'a Lease,
    teller: &'a Teller,
    terminal: Option<Terminal>,
    /// It stands still until it is given the terminal.
    wants_terminal: bool,
    ended: Option<Ended>,
    /// The lease is lost, or as good as lost.
    is_lost: bool,
    /// It was overdue that the guard ended the command, so all were killed.
    is_killed: bool,
}

/// What became of the command.
pub(super) struct Outcome {
    pub(super) code: Result<u8, Failed>,
    /// Who lives although it was killed: the lease must not be given back then.
    pub(super) left: Vec<i32>,
}

/// Runs the command under the lease. Nothing of it is left when this returns, but for what the outcome tells.
pub(super) async fn hold(
    client: &Client,
    lease: &Lease,
    args: &RunArgs,
    signals: &mut Signals,
    teller: &Teller,
) -> Outcome {
    let (grace, is_cut) = guard::grace(lease.ttl(), args.grace);
    if is_cut {
        teller.note(&format!(
            "a grace of {:?} does not fit before the deadline of a lease with a ttl of {:?}; it is cut to {grace:?}",
            args.grace.unwrap_or_default(),
            lease.ttl()
        ));
    }
    let guarded = match Guarded::start(lease, args, grace) {
        Ok(guarded) => guarded,
        Err(failed) => return Outcome { code: Err(failed), left: Vec::new() },
    };
    let mut held = Held {
        guarded,
        lease,
        teller,
        terminal: Terminal::of(Group::own()),
        wants_terminal: false,
        ended: None,
        is_lost: false,
        is_killed: false,
    };
    let started = held.guarded.started(lease, args).await;
    if started.is_ok() {
        held.live(client, signals).await;
    }
    // Whatever the guard had to do is done, unless it was killed.
    held.guarded.end_all().await;
    if let Some(terminal) = &mut held.terminal {
        terminal.take_back();
    }
    // Those that came until now were meant for the command.
    signals.forget();
    if !held.guarded.left().is_empty() {
        teller.note("some of what the command has started lives although it was killed; waiting for it while the lease lasts");
        let _ = select2(held.guarded.wait_for_left(lease), super::ending(signals)).await;
    }
    Outcome { code: started.and_then(|()| held.outcome()), left: held.guarded.left() }
}

impl Held<'_> {
    /// Until the guard is gone.
    async fn live(&mut self, client: &Client, signals: &mut Signals) {
        let lease = self.lease;
        let tick = lease.ttl() / TELLS_PER_TTL;
        let (mut keeping, mut revocation) = (pin!(keep(lease)), pin!(revoked(client, lease)));
        let mut next_tell = SystemClock.now() + tick;
        loop {
            // Before anything else, whatever happens how often.
            if self.guarded.overdue_in().is_zero() && !self.is_killed {
                // It is stopped, or was not given the time to do its work.
                self.is_killed = true;
                self.guarded.kill();
                self.late();
            }
            let now = SystemClock.now();
            if now >= next_tell {
                next_tell = now + tick;
                if self.is_lost {
                    self.guarded.say_the_rest();
                } else {
                    self.guarded.tell_deadline(lease);
                }
            }
            let overdue_in = if self.is_killed { tick } else { self.guarded.overdue_in() };
            let nap = next_tell.since(now).min(overdue_in.max(Duration::from_millis(1)));
            let is_lost = self.is_lost;
            // What is lost is renewed no more: a renewal would tell the library that it is lost, and then it could not
            // be given back.
            let lease_ends = async {
                if is_lost {
                    std::future::pending::<()>().await;
                }
                match select2(keeping.as_mut(), revocation.as_mut()).await {
                    Either::First(lost) => Heard::Lost(lost),
                    Either::Second(text) => Heard::Revoked(text),
                }
            };
            // The lease first: renewals must not wait for signals to become rare.
            let told = select2(self.guarded.next(), signals.next());
            let heard = match select2(lease_ends, select2(told, seam::sleep(nap))).await {
                Either::First(heard) => heard,
                Either::Second(Either::First(Either::First(said))) => Heard::Said(said),
                Either::Second(Either::First(Either::Second(signal))) => Heard::Signal(signal),
                Either::Second(Either::Second(())) => Heard::Time,
            };
            match heard {
                Heard::Said(Said::Gone) => return,
                Heard::Said(said) => self.said(said),
                Heard::Signal(signal) => self.signal(signal),
                Heard::Lost(lost) => self.lost(&lost),
                Heard::Revoked(text) => {
                    self.is_lost = true;
                    self.teller.lost(&format!("{text}; the command is being ended"));
                    self.guarded.end();
                }
                Heard::Time => {}
            }
        }
    }

    fn said(&mut self, said: Said) {
        match said {
            Said::Ended(ended) => self.ended = Some(ended),
            Said::Late => self.late(),
            Said::WantsTerminal => {
                self.wants_terminal = true;
                self.give_terminal();
            }
            Said::Stopped(signal) if signal == Signal::TSTP.as_raw() => self.was_stopped_by_terminal(),
            Said::Stopped(_) | Said::Gone => {}
        }
    }

    fn late(&mut self) {
        if !self.is_lost {
            self.is_lost = true;
            self.teller.lost(
                "the lease could not be renewed in time and is lost; the command is ended before the deadline",
            );
        }
    }

    fn lost(&mut self, lost: &LeaseLost) {
        self.is_lost = true;
        self.teller.lost(&format!("{lost}; the command is being ended"));
        match lost.reason {
            // Until its deadline nobody else is granted it: this process has not given it back.
            LossReason::Revoked { .. } | LossReason::Transferred { .. } => self.guarded.end(),
            // Who is granted it next may be at work already.
            _ => self.guarded.kill(),
        }
    }

    fn signal(&mut self, signal: Signal) {
        match signal {
            Signal::TSTP if !family::is_a_job() => {}
            Signal::TSTP => {
                self.guarded.signal(Signal::TSTP);
                if let Some(terminal) = &mut self.terminal {
                    terminal.take_back();
                }
                stop_self();
            }
            Signal::CONT => {
                if self.wants_terminal {
                    self.give_terminal();
                }
                self.guarded.signal(Signal::CONT);
            }
            signal => self.guarded.signal(signal),
        }
    }

    /// In the background it waits there, as any job does: the shell tells of it, and can put it to the foreground.
    fn give_terminal(&mut self) {
        let Some(terminal) = &mut self.terminal else { return };
        if terminal.give_to(self.guarded.group()) {
            self.wants_terminal = false;
            self.guarded.signal(Signal::CONT);
        } else {
            stop_self();
        }
    }

    /// Ctrl-Z, while the command has the terminal: it meant the whole job.
    fn was_stopped_by_terminal(&mut self) {
        if !self.terminal.as_ref().is_some_and(Terminal::is_given) {
            return;
        }
        if family::is_a_job() {
            // Its own share of it comes as a signal, too.
            Group::own().signal(Signal::TSTP);
        } else {
            self.guarded.signal(Signal::CONT);
        }
    }

    fn outcome(&self) -> Result<u8, Failed> {
        if self.is_lost {
            return Ok(exit::LOST);
        }
        if let Err(lost) = self.lease.check() {
            self.teller.lost(&format!("{lost}; the command was ended"));
            return Ok(exit::LOST);
        }
        match self.ended {
            Some(Ended::Code(code)) => Ok(u8::try_from(code).unwrap_or(exit::ERROR)),
            Some(Ended::Signal(signal)) => Ok(seam::code_of(signal)),
            None => Err(Failed::new(
                "the guard beside the command was killed, so the command was ended too; start it again",
            )),
        }
    }
}
