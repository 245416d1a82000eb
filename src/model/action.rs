//! What can happen, and what it is called.

use super::{
    Protocol,
    world::{Answer, Ask, CLIENTS, Mail, NODES, Phase, Place, State, Written},
};

/// One step. Numbers are those of clients and nodes, and positions in the state's lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Tick,
    Acquire(usize),
    AcquireAgain(usize),
    Renew(usize),
    Release(usize),
    Cancel(usize),
    Notice(usize),
    HearOfTurn(usize),
    Receive(usize),
    Deliver { mail: usize, node: usize, copy: bool },
    Lose(usize),
    Read(usize),
    Handle(usize),
    Wake(usize),
    Stall(usize),
    Resume(usize),
    Doubt(usize),
    Trust(usize),
    Elect { node: usize, survive: usize, confirmed: bool },
    Commit,
    Propose(usize),
    Fail(usize),
    GiveUp(usize),
}

impl Protocol {
    /// What may be possible: [`step`](Self::step) has the last word.
    pub(super) fn possible(&self, state: &State, actions: &mut Vec<Action>) {
        let left = state.left;
        // A timer that is due, and what waits to be read, come before time passes: to be late is to stand still.
        let mut urgent = false;
        for node in 0..NODES {
            if state.is_to_wake(node) {
                urgent = true;
                actions.push(Action::Wake(node));
            }
            if let Some(since) = state.nodes[node].stalled {
                urgent |= state.tick - since >= self.world.stall_ticks;
                actions.push(Action::Resume(node));
            } else if state.nodes[node].reign.is_some() {
                push_if(left.stalls > 0, actions, Action::Stall(node));
                push_if(left.doubts > 0, actions, Action::Doubt(node));
                push_if(state.has_doubted(node, 1), actions, Action::Trust(node));
                urgent |= state.has_doubted(node, self.world.stall_ticks);
            }
            if left.elections > 0 && node != state.leader {
                for survive in 0..=state.tail.len() {
                    let elect = |confirmed| Action::Elect { node, survive, confirmed };
                    actions.extend([elect(false), elect(true)]);
                }
            }
        }
        for (mail, Mail { id, place, .. }) in state.mail.iter().enumerate() {
            let full = state.mail_of(id.client()) >= self.world.mail_most;
            match place {
                Place::Wire => {
                    for node in (0..NODES).filter(|node| state.nodes[*node].reign.is_some()) {
                        actions.push(Action::Deliver { mail, node, copy: false });
                        push_if(
                            left.duplicates > 0 && !full,
                            actions,
                            Action::Deliver { mail, node, copy: true },
                        );
                    }
                    push_if(full, actions, Action::Lose(mail));
                }
                Place::Socket { node } => {
                    urgent |= state.runs(*node);
                    actions.push(Action::Read(mail));
                }
                Place::Arrived { .. } | Place::Confirmed { .. } => actions.push(Action::Handle(mail)),
                Place::Answered(_) => {
                    actions.push(Action::Receive(mail));
                    push_if(full, actions, Action::Lose(mail));
                }
            }
        }
        for client in 0..CLIENTS {
            let may_send = state.mail_of(client) < self.world.mail_most;
            let phase = &state.clients[client].phase;
            match phase {
                Phase::Idle => push_if(may_send, actions, Action::Acquire(client)),
                Phase::Asking(_) => push_if(may_send, actions, Action::AcquireAgain(client)),
                Phase::Waiting => actions.push(Action::HearOfTurn(client)),
                Phase::Confirming(_) => {}
                Phase::Holding(..) => {
                    push_if(state.clients[client].renewing.is_some(), actions, Action::Notice(client));
                    push_if(may_send && left.releases > 0, actions, Action::Release(client));
                }
            }
            let renews = matches!(phase, Phase::Waiting | Phase::Confirming(_) | Phase::Holding(..));
            push_if(may_send && renews, actions, Action::Renew(client));
            push_if(may_send && left.cancels > 0, actions, Action::Cancel(client));
        }
        if !state.tail.is_empty() && state.runs(state.leader) {
            urgent |= !self.world.slow_commits;
            actions.push(Action::Commit);
        }
        actions.extend((0..state.expiries.len()).map(Action::Propose));
        if left.failures > 0 {
            actions.extend((0..state.expiries.len()).map(Action::Fail));
            actions.extend((0..state.tail.len()).map(Action::GiveUp));
        }
        push_if(!urgent, actions, Action::Tick);
    }

    /// What comes of it; `None` where it isn't possible.
    pub(super) fn step(&self, last: &State, action: Action) -> Option<State> {
        let world = &self.world;
        let mut state = last.clone();
        state.notes = 0;
        match action {
            Action::Tick => state.pass(),
            Action::Acquire(client) => state.acquire(world, client),
            Action::AcquireAgain(client) => state.acquire_again(world, client),
            Action::Renew(client) => state.renew(world, client),
            Action::Release(client) => state.release(world, client),
            Action::Cancel(client) => state.cancel(world, client),
            Action::Notice(client) => state.notice(client),
            Action::HearOfTurn(client) => state.hear_of_turn(world, client),
            Action::Receive(mail) => state.receive(world, mail),
            Action::Deliver { mail, node, copy } => state.deliver(world, mail, node, copy),
            Action::Lose(mail) => {
                state.mail.remove(mail);
                Some(())
            }
            Action::Read(mail) => state.read(mail),
            Action::Handle(mail) => state.handle(world, mail),
            Action::Wake(node) => state.wake(world, node),
            Action::Stall(node) => state.stall(node),
            Action::Resume(node) => state.resume(node),
            Action::Doubt(node) => state.doubt(node),
            Action::Trust(node) => state.trust(node),
            Action::Elect { node, survive, confirmed } => state.elect(world, node, survive, confirmed),
            Action::Commit => state.commit(world),
            Action::Propose(expiry) => state.propose(expiry),
            Action::Fail(expiry) => state.fail(expiry),
            Action::GiveUp(at) => state.give_up(at),
        }?;
        state.forget_what_is_void();
        Some(state)
    }
}

fn push_if(wanted: bool, actions: &mut Vec<Action>, action: Action) {
    if wanted {
        actions.push(action);
    }
}

/// What a step is called in a counterexample.
pub(super) fn describe(state: &State, action: Action) -> String {
    let who = |client: usize| ["A", "B"][client];
    let lease =
        |client: usize| state.id_of(client).map_or("?".to_owned(), |id| name(id.client(), id.serial()));
    let mail = |at: usize| {
        let Mail { id, ask, .. } = state.mail[at];
        let asked = match ask {
            Ask::Acquire => "acquire",
            Ask::Renew => "renewal",
            Ask::Release => "release",
            Ask::Cancel => "cancellation",
        };
        format!("the {asked} of {}", name(id.client(), id.serial()))
    };
    match action {
        Action::Tick => "a tick passes".to_owned(),
        Action::Acquire(client) => {
            let drawn = state.clients[client].drawn;
            format!("{} asks for the lease, as {}", who(client), name(client, drawn))
        }
        Action::AcquireAgain(client) => format!("{} asks for {} again", who(client), lease(client)),
        Action::Renew(client) => format!("{} sends a renewal of {}", who(client), lease(client)),
        Action::Release(client) => format!("{} releases {}", who(client), lease(client)),
        Action::Cancel(client) => format!("{} gives {} up", who(client), lease(client)),
        Action::Notice(client) => format!("{} finds that {} has run out", who(client), lease(client)),
        Action::HearOfTurn(client) => format!("{} hears that {} is granted", who(client), lease(client)),
        Action::Receive(at) => {
            let answer = match state.mail[at].place {
                Place::Answered(Answer::Granted(token)) => format!("granted with token {token}"),
                Place::Answered(Answer::Waiting) => "queued".to_owned(),
                Place::Answered(Answer::Ended) => "refused, the id has ended".to_owned(),
                Place::Answered(Answer::Extended) => "extended".to_owned(),
                _ => "gone".to_owned(),
            };
            format!("{} is answered {}: {answer}", who(state.mail[at].id.client()), mail(at))
        }
        Action::Deliver { mail: at, node, copy } => {
            let rest = if copy { ", and a copy stays in the network" } else { "" };
            format!("{} reaches node {node}{rest}", mail(at))
        }
        Action::Lose(at) => format!("{} is lost", mail(at)),
        Action::Read(at) => format!("{} is read", mail(at)),
        Action::Handle(at) => format!("{} is handled", mail(at)),
        Action::Wake(node) => format!("node {node}'s timer wakes"),
        Action::Stall(node) => format!("node {node} stands still"),
        Action::Resume(node) => format!("node {node} goes on"),
        Action::Doubt(node) => format!("node {node} hears no majority"),
        Action::Trust(node) => format!("node {node} hears a majority again"),
        Action::Elect { node, survive, confirmed } => format!(
            "node {node} is elected in term {}, with {survive} of {} uncommitted entries{}",
            state.term + 1,
            state.tail.len(),
            if confirmed { "; the other one's confirmation came before" } else { "" },
        ),
        Action::Commit => match state.tail.first().map(|pending| &pending.written) {
            Some(Written::Asked(ask, id)) => {
                format!("committed: {ask:?} of {}", name(id.client(), id.serial()))
                    .to_lowercase()
                    .replace(&name(id.client(), id.serial()).to_lowercase(), &name(id.client(), id.serial()))
            }
            Some(Written::Expire(expiry)) => {
                format!("committed: the expiry that term {} found due", expiry.term)
            }
            Some(Written::Blank) | None => format!("committed: the first entry of term {}", state.term),
        },
        Action::Propose(_) => format!("an expiry is appended in term {}", state.term),
        Action::Fail(_) => "an expiry fails".to_owned(),
        Action::GiveUp(_) => "an expiry is not heard of any more".to_owned(),
    }
}

fn name(client: usize, serial: usize) -> String {
    format!("{}{}", ["A", "B"][client], serial + 1)
}
