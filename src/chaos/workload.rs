//! Clients that try everything that can be done with leases, and note it down: acquire and try, hold and check, renew,
//! write to what is protected, release, drop, let expire, hand over, revoke, read, watch.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, sync::Arc, time::Duration};

use super::{
    builder::SimBuilder,
    ending::ending,
    history::{Answered, Asked, Call, Stint, Watcher, Write},
    recorder::see_who_leads,
    sim::Sim,
    swarm::Faults,
};
use crate::{
    AcquireError, Agent, Fence, Lease, Mode, Name, ReadError, ReleaseError, Released, RenewError,
    RevokeError, Token, TransferError, TransferTo,
    runtime::{Either, select2},
};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);
/// Beside each agent, without its watcher.
const CLIENTS: usize = 3;
/// Names that are held alone.
const ALONE: [&str; 3] = ["orders.db", "users.db", "mail.db"];
/// A name that readers share and writers don't.
const SHARED: &str = "cache";
/// A name of which there are some permits.
const PERMITS: &str = "workers";
const PERMITS_OF: u32 = 2;
/// The longest ttl, and the longest lock delay.
const TTL_MAX: Duration = Duration::from_secs(6);
const LOCK_DELAY_MAX: Duration = Duration::from_millis(1_500);
/// What the clients share.
struct Desk {
    sim: Sim,
    /// What is protected, by name.
    fences: RefCell<BTreeMap<String, Rc<Fence>>>,
}

/// A cluster as it is tried seed by seed: it takes snapshots early, and its pace differs from seed to seed.
pub fn cluster(seed: u64, agents: usize, faults: Faults) -> SimBuilder {
    const SHUFFLES: [f64; 4] = [0.0, 0.1, 0.5, 1.0];
    let shuffle = SHUFFLES.get(seed as usize % SHUFFLES.len()).copied().unwrap_or(0.0);
    // How many may vote differs as well: as many as found it, or more, or fewer.
    const VOTERS: [usize; 4] = [5, 7, 5, 3];
    let voters = VOTERS.get((seed / 4) as usize % VOTERS.len()).copied().unwrap_or(5);
    Sim::builder()
        .seed(seed)
        .agents(agents)
        .voters_max(voters)
        .snapshot_after(40, 10)
        .shuffle(shuffle)
        .faults(faults)
}

/// Clients beside every agent for as long as there are faults; then some agents are left dead, so that a bare quorum is
/// left, and every name is to be had within the bound of rule L6. For [`SimBuilder::workload`](super::SimBuilder::workload).
pub async fn leases(sim: Sim) {
    sim.recorder().write(|history| history.ttl_max = TTL_MAX);
    let desk = Rc::new(Desk { sim: sim.clone(), fences: RefCell::default() });
    for agent in 0..sim.agents() {
        for _ in 0..CLIENTS {
            let desk = desk.clone();
            sim.in_each_life(agent, move |handle| client(desk.clone(), agent, handle));
        }
        let desk = desk.clone();
        sim.in_each_life(agent, move |handle| watch_one_life(desk.clone(), agent, handle));
    }
    sim.outside(wander(desk.clone()));
    sim.mended().await;
    let names = ALONE.into_iter().chain([SHARED, PERMITS]).collect();
    ending(&sim, names, (TTL_MAX, LOCK_DELAY_MAX)).await;
}

impl Desk {
    /// Notes that something is asked; the answer goes to the same place.
    fn ask(&self, agent: usize, name: &Name, asked: Asked) -> usize {
        see_who_leads(&self.sim);
        let began = self.sim.now();
        let call = Call { agent, name: name.clone(), asked, began, ended: None, answer: Answered::Pending };
        self.sim.recorder().write(|history| {
            history.calls.push(call);
            history.calls.len() - 1
        })
    }

    fn answer(&self, call: usize, answer: Answered) {
        see_who_leads(&self.sim);
        let ended = Some(self.sim.now());
        self.sim.recorder().write(|history| {
            if let Some(call) = history.calls.get_mut(call) {
                (call.ended, call.answer) = (ended, answer);
            }
        });
    }

    /// A write that is on its way for a while, and outlives whoever sent it.
    fn send_write(&self, agent: usize, name: &Name, token: Token) {
        let fence = self
            .fences
            .borrow_mut()
            .entry(name.to_string())
            .or_insert_with(|| Rc::new(Fence::in_memory()))
            .clone();
        let (sim, name) = (self.sim.clone(), name.clone());
        let slow = self.sim.random_below(8) == 0;
        let travels = self.sim.random_span(MS / 10, if slow { 3 * S } else { 5 * MS });
        self.sim.outside(async move {
            sim.sleep(travels).await;
            let admitted = fence.admit(token).is_ok();
            let at = sim.now();
            sim.recorder().write(|history| history.writes.push(Write { at, agent, name, token, admitted }));
        });
    }
}

async fn client(desk: Rc<Desk>, agent: usize, handle: Agent) {
    let sim = desk.sim.clone();
    loop {
        sim.sleep(sim.random_span(Duration::ZERO, 800 * MS)).await;
        if handle.status().stopped.is_some() {
            return;
        }
        let (text, mode) = match sim.random_below(10) {
            8 if sim.random_below(3) > 0 => (SHARED, Mode::Shared),
            8 => (SHARED, Mode::Exclusive),
            9 => (PERMITS, Mode::Permits { of: PERMITS_OF }),
            other => (ALONE[other as usize % ALONE.len()], Mode::Exclusive),
        };
        let Ok(name) = Name::new(text) else { return };
        match sim.random_below(24) {
            0..4 => read(&desk, agent, &handle, &name, mode).await,
            4 => revoke(&desk, agent, &handle, &name).await,
            _ => {
                if let Some((lease, renewed)) = acquire(&desk, agent, &handle, &name, mode).await {
                    hold(&desk, agent, lease, mode, renewed).await;
                }
            }
        }
    }
}

/// Drops the future when it takes longer.
pub(super) async fn soon<T>(sim: &Sim, patience: Duration, future: impl Future<Output = T>) -> Option<T> {
    match select2(future, sim.sleep(patience)).await {
        Either::First(output) => Some(output),
        Either::Second(()) => None,
    }
}

async fn read(desk: &Desk, agent: usize, handle: &Agent, name: &Name, mode: Mode) {
    // Of several holders one is told, and it is not said which.
    if mode != Mode::Exclusive || name.as_str() == SHARED {
        return;
    }
    let call = desk.ask(agent, name, Asked::Holder);
    let answer = match handle.holder(name.as_str()).await {
        Ok(held) => Answered::Holder(held.map(|held| held.token)),
        Err(ReadError::Stopped { detail } | ReadError::Unavailable { detail }) => Answered::Nothing(detail),
        Err(error) => Answered::Nothing(error.to_string()),
    };
    desk.answer(call, answer);
}

async fn revoke(desk: &Desk, agent: usize, handle: &Agent, name: &Name) {
    let call = desk.ask(agent, name, Asked::Revoke);
    let revoked = if desk.sim.random_below(3) == 0 {
        let heir = (agent + 1) % desk.sim.agents();
        let Ok(heir) = crate::AgentName::new(format!("agent-{heir}")) else { return };
        handle.transfer(name.as_str(), &heir, "for a change").await
    } else {
        handle.revoke(name.as_str(), "for a change").await
    };
    let answer = match revoked {
        Ok(holders) => Answered::Revoked(holders.into_iter().map(|holder| holder.token).collect()),
        Err(error @ (RevokeError::Unknown { .. } | RevokeError::Stopped { .. })) => {
            Answered::Unknown(error.to_string())
        }
        Err(error) => Answered::Nothing(error.to_string()),
    };
    desk.answer(call, answer);
}

async fn acquire(
    desk: &Desk,
    agent: usize,
    handle: &Agent,
    name: &Name,
    mode: Mode,
) -> Option<(Lease, bool)> {
    let sim = &desk.sim;
    let ttl = sim.random_span(1_200 * MS, TTL_MAX);
    let mut request =
        handle.lease(name.as_str()).ttl(ttl).mode(mode).wait_at_most(sim.random_span(MS, 20 * S));
    if sim.random_below(4) > 0 {
        request = request.queue_behind_own();
    }
    let renewed = sim.random_below(5) > 0;
    if !renewed {
        request = request.without_renewal();
    }
    if mode == Mode::Exclusive && sim.random_below(6) == 0 {
        request = request.lock_delay(sim.random_span(MS, LOCK_DELAY_MAX));
    }
    let waits = sim.random_below(3) > 0;
    let patience = match sim.random_below(4) {
        0 => sim.random_span(MS / 10, 500 * MS),
        _ => sim.random_span(500 * MS, 40 * S),
    };
    let call = desk.ask(agent, name, Asked::Acquire { mode, waits });
    let acquired = async { if waits { request.acquire().await } else { request.try_acquire().await } };
    let (answer, lease) = match soon(sim, patience, acquired).await {
        None => (Answered::Unknown("the client did not wait any longer".to_owned()), None),
        Some(Ok(lease)) => (Answered::Granted(lease.id(), lease.token()), Some(lease)),
        Some(Err(AcquireError::Held { holder, .. })) => (Answered::HeldBy(holder.token), None),
        Some(Err(AcquireError::Closed { .. })) => (Answered::Closed, None),
        Some(Err(error)) => {
            let may = matches!(error, AcquireError::Unknown { .. } | AcquireError::Stopped { .. });
            let text = error.to_string();
            (if may { Answered::Unknown(text) } else { Answered::Nothing(text) }, None)
        }
    };
    desk.answer(call, answer);
    lease.map(|lease| (lease, renewed))
}

/// Holds a lease for a while, and ends it in one way or another.
async fn hold(desk: &Desk, agent: usize, lease: Lease, mode: Mode, renewed: bool) {
    let sim = &desk.sim;
    let mut lease = Arc::new(lease);
    let mut belief = sim.believes(agent, &lease, mode);
    let most = if sim.random_below(5) == 0 { 12 * S } else { 3 * S };
    let until = sim.now() + sim.random_span(Duration::ZERO, most);
    while sim.now() < until {
        let step = lease.guard(sim.sleep(sim.random_span(MS, 400 * MS))).await;
        if step.is_err() {
            return tell(desk, belief, &lease).await;
        }
        if mode == Mode::Exclusive && sim.random_below(2) == 0 && lease.check().is_ok() {
            desk.send_write(agent, lease.name(), lease.token());
        }
        if !renewed && sim.random_below(10) == 0 {
            renew(desk, agent, &lease).await;
        }
        if mode == Mode::Exclusive && sim.random_below(24) == 0 {
            match transfer(desk, agent, belief, lease, mode).await {
                Some(back) => (lease, belief) = back,
                None => return,
            }
        }
    }
    if lease.check().is_err() {
        return tell(desk, belief, &lease).await;
    }
    if mode == Mode::Exclusive && sim.random_below(4) == 0 {
        // A write that its sender does not wait for.
        desk.send_write(agent, lease.name(), lease.token());
    }
    match sim.random_below(4) {
        0 => {
            sim.gives_up(belief);
            drop(lease);
        }
        // Where nothing renews it, it runs out.
        1 if !renewed => {
            lease.lost().await;
            tell(desk, belief, &lease).await;
        }
        _ => release(desk, agent, belief, lease).await,
    }
}

/// The lease is lost: whoever asks is told why.
async fn tell(desk: &Desk, belief: usize, lease: &Arc<Lease>) {
    let lost = lease.lost().await;
    desk.sim.told(belief, lost.reason);
    desk.sim.sleep(desk.sim.random_span(MS, 50 * MS)).await;
    if let Err(lost) = lease.check() {
        desk.sim.told(belief, lost.reason);
    }
}

async fn renew(desk: &Desk, agent: usize, lease: &Lease) {
    let call = desk.ask(agent, lease.name(), Asked::Renew(lease.id()));
    let answer = match lease.renew().await {
        Ok(()) => Answered::Done,
        Err(RenewError::Lost(_)) => Answered::WasLost,
        Err(error) => Answered::Unknown(error.to_string()),
    };
    desk.answer(call, answer);
}

async fn release(desk: &Desk, agent: usize, belief: usize, lease: Arc<Lease>) {
    let Ok(lease) = Arc::try_unwrap(lease) else { return };
    let call = desk.ask(agent, lease.name(), Asked::Release(lease.id()));
    desk.sim.gives_up(belief);
    let answer = match lease.release().await {
        Ok(Released::Released) => Answered::Done,
        Ok(Released::WasLost(_)) => Answered::WasLost,
        Err(error @ ReleaseError::Refused { .. }) => Answered::Nothing(error.to_string()),
        Err(error) => Answered::Unknown(error.to_string()),
    };
    desk.answer(call, answer);
}

/// Hands the lease over; where nobody waits it comes back, and is believed in again.
async fn transfer(
    desk: &Desk,
    agent: usize,
    belief: usize,
    lease: Arc<Lease>,
    mode: Mode,
) -> Option<(Arc<Lease>, usize)> {
    let lease = Arc::try_unwrap(lease).ok()?;
    let to = match desk.sim.random_below(2) {
        0 => TransferTo::First,
        _ => {
            let heir = desk.sim.random_below(desk.sim.agents() as u64);
            TransferTo::Agent(crate::AgentName::new(format!("agent-{heir}")).ok()?)
        }
    };
    let call = desk.ask(agent, lease.name(), Asked::Transfer { id: lease.id(), to: to.clone() });
    desk.sim.gives_up(belief);
    let (answer, back) = match lease.transfer(to).await {
        Ok(done) => (Answered::HandedOver(done.to.map(|heir| heir.token)), None),
        Err(TransferError::NoSuchWaiter { lease, .. }) => {
            (Answered::Nothing("nobody waits".to_owned()), Some(*lease))
        }
        Err(TransferError::Lost(_)) => (Answered::WasLost, None),
        Err(error) => (Answered::Unknown(error.to_string()), None),
    };
    desk.answer(call, answer);
    let lease = Arc::new(back?);
    let belief = desk.sim.believes(agent, &lease, mode);
    Some((lease, belief))
}

/// Watches everything from where this agent's life begins.
async fn watch_one_life(desk: Rc<Desk>, agent: usize, handle: Agent) {
    let after = handle.status().applied;
    let number = new_watcher(&desk, after);
    let Ok(watch) = handle.watch_prefix("") else { return };
    follow(&desk, number, agent, watch.since(after)).await;
}

fn new_watcher(desk: &Desk, after: u64) -> usize {
    desk.sim.recorder().write(|history| {
        history.watchers.push(Watcher { after, ..Watcher::default() });
        history.watchers.len() - 1
    })
}

/// A watcher listens, until this is dropped.
struct Listening {
    sim: Sim,
    watcher: usize,
}

impl Listening {
    fn new(sim: &Sim, watcher: usize, agent: usize) -> Self {
        let listening = Self { sim: sim.clone(), watcher };
        let from = sim.now();
        listening.write(|watcher| watcher.stints.push(Stint { agent, from, until: None }));
        listening
    }

    fn write(&self, write: impl FnOnce(&mut Watcher)) {
        self.sim.recorder().write(|history| history.watchers.get_mut(self.watcher).map(write));
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let until = Some(self.sim.now());
        self.write(|watcher| {
            if let Some(stint) = watcher.stints.last_mut() {
                stint.until = until;
            }
        });
    }
}

async fn follow(desk: &Desk, number: usize, agent: usize, mut watch: crate::Watch) {
    let listening = Listening::new(&desk.sim, number, agent);
    while let Some(change) = watch.next().await {
        let at = desk.sim.now();
        listening.write(|watcher| watcher.told.push((at, agent, change)));
    }
}

/// One watcher that goes from agent to agent, on from where it stopped.
async fn wander(desk: Rc<Desk>) {
    let sim = desk.sim.clone();
    let number = new_watcher(&desk, 0);
    let mut agent = 0;
    let wanders = async {
        loop {
            agent = (agent + 1 + sim.random_below(sim.agents() as u64 - 1) as usize) % sim.agents();
            sim.sleep(200 * MS).await;
            let Some(handle) = sim.agent(agent) else { continue };
            let last = sim.recorder().write(|history| {
                let told = history.watchers.get(number)?.told.last()?;
                Some(told.2.index)
            });
            let (ours, stays) = (desk.clone(), sim.random_span(100 * MS, 5 * S));
            let job = sim.on(agent, async move {
                let Ok(watch) = handle.watch_prefix("") else { return };
                let follow = follow(&ours, number, agent, watch.since(last.unwrap_or(0)));
                select2(ours.sim.sleep(stays), follow).await;
            });
            // Its process may have ended: then it goes on elsewhere.
            let _ = job.await;
        }
    };
    select2(sim.mended(), wanders).await;
}
