//! The client's half of a step: what `lease/acquisition.rs` and `lease/renewer.rs` do, around the product's [`Session`].
//!
//! A client may do what it may at any time, or never: so it is paused, slow and dead as well. It renews whenever it likes,
//! not only at a third of the ttl.

use super::{
    mutants::Mutant,
    rules::Note,
    world::{Answer, Ask, Client, Id, Mail, Phase, Place, State, World},
};
use crate::{
    session::{LossReason, Session},
    time::Moment,
    token::Token,
};

impl State {
    /// Draws a lease id and asks for the lease.
    pub(super) fn acquire(&mut self, world: &World, client: usize) -> Option<()> {
        let now = self.client_now(client);
        let Client { phase, drawn, may_draw, .. } = &mut self.clients[client];
        if !matches!(phase, Phase::Idle) || drawn == may_draw {
            return None;
        }
        *phase = Phase::Asking(now);
        *drawn += 1;
        let id = self.id_of(client)?;
        self.seen[id.index()] = self.index;
        self.send(world, id, Ask::Acquire)
    }

    /// Asks for the same lease once more, where no copy and no answer is under way: one of them was lost.
    pub(super) fn acquire_again(&mut self, world: &World, client: usize) -> Option<()> {
        let id = self.id_of(client)?;
        let asks = matches!(self.clients[client].phase, Phase::Asking(_));
        let under_way = |mail: &Mail| mail.id == id && mail.ask == Ask::Acquire;
        if !asks || self.mail.iter().any(under_way) || self.is_written(id) {
            return None;
        }
        self.send(world, id, Ask::Acquire)
    }

    /// Sends a renewal; one that is not answered yet is given up.
    pub(super) fn renew(&mut self, world: &World, client: usize) -> Option<()> {
        let (id, now) = (self.id_of(client)?, self.client_now(client));
        match &self.clients[client].phase {
            Phase::Idle | Phase::Asking(_) => return None,
            Phase::Holding(_, session) if session.clone().check(now).is_err() => return None,
            // Another one in the same moment brings nothing new.
            Phase::Holding(_, session)
                if session.deadline() == now + world.holders_drift().shorten(world.ttl()) =>
            {
                return None;
            }
            Phase::Waiting | Phase::Confirming(_) | Phase::Holding(..) => {}
        }
        if self.clients[client].renewing == Some(now) {
            return None;
        }
        self.give_up_answers(client);
        self.clients[client].renewing = Some(now);
        self.send(world, id, Ask::Renew)
    }

    /// Stops believing, then gives the lease back.
    pub(super) fn release(&mut self, world: &World, client: usize) -> Option<()> {
        let (id, now) = (self.id_of(client)?, self.client_now(client));
        self.left.releases = self.left.releases.checked_sub(1)?;
        let Phase::Holding(_, session) = &mut self.clients[client].phase else { return None };
        if session.check(now).is_err() || !session.end(LossReason::Released) {
            return None;
        }
        self.idle(client);
        self.send(world, id, Ask::Release)
    }

    /// Drops the acquisition: a cancellation goes out in the background.
    pub(super) fn cancel(&mut self, world: &World, client: usize) -> Option<()> {
        self.left.cancels = self.left.cancels.checked_sub(1)?;
        match self.clients[client].phase {
            Phase::Asking(_) | Phase::Waiting | Phase::Confirming(_) => {}
            Phase::Idle | Phase::Holding(..) => return None,
        }
        let id = self.id_of(client)?;
        self.idle(client);
        self.send(world, id, Ask::Cancel)
    }

    /// Finds that its lease has run out.
    pub(super) fn notice(&mut self, client: usize) -> Option<()> {
        let now = self.client_now(client);
        let Phase::Holding(_, session) = &mut self.clients[client].phase else { return None };
        session.check(now).is_err().then(|| self.idle(client))
    }

    /// Hears that its turn has come.
    pub(super) fn hear_of_turn(&mut self, world: &World, client: usize) -> Option<()> {
        let id = self.id_of(client)?;
        let token = self.table.lease(&id.lease())?.lease.token;
        if !matches!(self.clients[client].phase, Phase::Waiting) {
            return None;
        }
        // What was asked for its place in the queue is no confirmation of the lease.
        self.give_up_answers(client);
        self.clients[client].phase = Phase::Confirming(token);
        if world.is(Mutant::NoConfirmation) {
            self.hold(world, client, token, self.client_now(client));
        }
        Some(())
    }

    /// An answer arrives.
    pub(super) fn receive(&mut self, world: &World, mail: usize) -> Option<()> {
        let Mail { id, place: Place::Answered(answer), .. } = *self.mail.get(mail)? else { return None };
        let client = id.client();
        let now = self.client_now(client);
        let fresh = |sent: Moment| now.since(sent) < world.ttl() / 3;
        let renewing = self.clients[client].renewing;
        // The other copies' answers come to nobody.
        self.mail.remove(mail);
        self.give_up_answers(client);
        match (&mut self.clients[client].phase, answer) {
            (&mut Phase::Asking(sent), Answer::Granted(token)) => {
                if fresh(sent) {
                    self.hold(world, client, token, sent);
                } else {
                    self.clients[client].phase = Phase::Confirming(token);
                }
            }
            (phase @ Phase::Asking(_), Answer::Waiting) => *phase = Phase::Waiting,
            (Phase::Asking(_), _) => self.idle(client),
            (&mut Phase::Confirming(token), Answer::Extended) => match renewing {
                Some(sent) if fresh(sent) => {
                    self.note(Note::Confirmed);
                    self.hold(world, client, token, sent);
                }
                _ => {}
            },
            (Phase::Holding(_, session), Answer::Extended) => {
                let sent = renewing.filter(|_| !world.is(Mutant::CountsFromAnswer)).unwrap_or(now);
                let lives = session.renewed(sent, now).is_ok();
                if lives {
                    let earlier = |mail: &Mail| mail.id == id && mail.ask == Ask::Renew;
                    if self.mail.iter().any(earlier) {
                        self.note(Note::RetriedInTime);
                    }
                } else {
                    self.note(Note::AnsweredTooLate);
                    self.idle(client);
                }
            }
            (Phase::Holding(_, session), Answer::Gone) => {
                session.end(LossReason::ExpiredInContact);
                self.idle(client);
            }
            (phase @ (Phase::Waiting | Phase::Confirming(_)), Answer::Gone) => {
                if matches!(phase, Phase::Confirming(_)) {
                    self.note(Note::GoneBeforeConfirmed);
                }
                self.idle(client);
                let _ = self.send(world, id, Ask::Cancel);
            }
            _ => {}
        }
        Some(())
    }

    /// Has the lease in hand, as of a request sent at `sent`.
    fn hold(&mut self, world: &World, client: usize, token: Token, sent: Moment) {
        let from = if world.is(Mutant::CountsFromAnswer) { self.client_now(client) } else { sent };
        let session = Session::granted(from, world.ttl(), world.holders_drift());
        self.give_up_answers(client);
        self.clients[client].phase = Phase::Holding(token, session);
    }

    /// The client is done with its lease id.
    pub(super) fn idle(&mut self, client: usize) {
        self.give_up_answers(client);
        self.clients[client].phase = Phase::Idle;
    }

    /// Nothing that is under way for this client is awaited any more. It may still take effect.
    fn give_up_answers(&mut self, client: usize) {
        self.clients[client].renewing = None;
        self.mail.retain(|mail| mail.id.client() != client || !matches!(mail.place, Place::Answered(_)));
        for mail in self.mail.iter_mut().filter(|mail| mail.id.client() == client) {
            mail.awaited = false;
        }
    }

    fn send(&mut self, world: &World, id: Id, ask: Ask) -> Option<()> {
        if self.mail_of(id.client()) == world.mail_most {
            return None;
        }
        let awaited = matches!(ask, Ask::Acquire | Ask::Renew);
        self.mail.push(Mail { id, ask, awaited, place: Place::Wire });
        Some(())
    }
}
