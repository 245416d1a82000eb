//! A network in this process: each host has a device of its own (TUN), and what one sends to another passes through here.
//! Each way from one host to another has its own weather, seeded; nobody is told of what vanishes.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    io,
    process::{Command, Stdio},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tun::Device;

const MTU: usize = 1_400;
/// More than these are not under way at once; others are lost.
const QUEUED_MAX: usize = 10_000;

/// What happens to the packets of one way.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Way {
    pub(crate) is_cut: bool,
    /// From 0 to 1.
    pub(crate) loss: f64,
    /// From 0 to 1.
    pub(crate) duplication: f64,
    /// Each packet's own, up to this: so that they overtake each other.
    pub(crate) delay_max: Duration,
}

/// In the order in which they are due; no two have the same number.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Queued {
    due: Instant,
    number: u64,
    to: usize,
    packet: Vec<u8>,
}

struct Shared {
    devices: Vec<Device>,
    ways: Mutex<Vec<Vec<Way>>>,
    chance: Mutex<StdRng>,
    late: Mutex<BinaryHeap<Reverse<Queued>>>,
    news: Condvar,
    ends: AtomicBool,
    passed: AtomicU64,
    lost: AtomicU64,
}

/// See the file's head. The network is gone when it is dropped.
pub(crate) struct Switch {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// The devices' names, with their namespaces.
    names: Vec<(String, String)>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `ip`.
pub(crate) fn ip(args: &str) -> Result<(), String> {
    let output = Command::new("ip").args(args.split(' ')).stdin(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("`ip {args}` fails: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("`ip` can't be run: {error}")),
    }
}

/// A host's address.
pub(crate) fn address(host: usize) -> String {
    format!("10.78.0.{}", host + 1)
}

impl Switch {
    /// Gives each of these network namespaces a device.
    pub(crate) fn between(namespaces: &[String], seed: u64) -> Result<Self, String> {
        let (mut devices, mut names) = (Vec::new(), Vec::new());
        for (host, namespace) in namespaces.iter().enumerate() {
            let name = format!("lh{}-{host}", std::process::id());
            let mut settings = tun::Configuration::default();
            settings.tun_name(&name).mtu(u16::try_from(MTU).unwrap_or(u16::MAX));
            let device = tun::create(&settings).map_err(|error| format!("no TUN device: {error}"))?;
            devices.push(device);
            // The device goes there, and its other end stays here.
            ip(&format!("link set {name} netns {namespace}"))?;
            ip(&format!("-n {namespace} address add {}/24 dev {name}", address(host)))?;
            ip(&format!("-n {namespace} link set {name} up"))?;
            names.push((namespace.clone(), name));
        }
        let hosts = devices.len();
        let shared = Arc::new(Shared {
            devices,
            ways: Mutex::new(vec![vec![Way::default(); hosts]; hosts]),
            chance: Mutex::new(StdRng::seed_from_u64(seed)),
            late: Mutex::default(),
            news: Condvar::new(),
            ends: AtomicBool::new(false),
            passed: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        });
        let mut threads: Vec<_> = (0..hosts)
            .map(|host| {
                let shared = shared.clone();
                std::thread::spawn(move || shared.carry_from(host))
            })
            .collect();
        let ours = shared.clone();
        threads.push(std::thread::spawn(move || ours.deliver_late()));
        Ok(Self { shared, threads, names })
    }

    /// From now on these ways are like that.
    pub(crate) fn set(&self, way: Way, of: impl Fn(usize, usize) -> bool) {
        let mut ways = lock(&self.shared.ways);
        for (from, row) in ways.iter_mut().enumerate() {
            for (to, present) in row.iter_mut().enumerate() {
                if of(from, to) {
                    *present = way;
                }
            }
        }
    }

    /// How many packets have passed, and how many have vanished.
    pub(crate) fn counted(&self) -> (u64, u64) {
        (self.shared.passed.load(Ordering::Relaxed), self.shared.lost.load(Ordering::Relaxed))
    }
}

impl Shared {
    /// Until the device is gone.
    fn carry_from(&self, host: usize) {
        let mut packet = vec![0; 2 * MTU];
        while !self.ends.load(Ordering::Relaxed) {
            match self.devices[host].recv(&mut packet) {
                Ok(length) => self.carry(host, &packet[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    fn carry(&self, from: usize, packet: &[u8]) {
        // IPv4, to one of the hosts.
        let to = match (packet.first().map(|first| first >> 4), packet.get(16..20)) {
            (Some(4), Some(&[10, 78, 0, last])) => usize::from(last).wrapping_sub(1),
            _ => return,
        };
        if to >= self.devices.len() {
            return;
        }
        let way = lock(&self.ways)[from][to];
        let (copies, delays) = {
            let mut chance = lock(&self.chance);
            let lost = way.is_cut || chance.random_bool(way.loss);
            let copies = if lost { 0 } else { 1 + usize::from(chance.random_bool(way.duplication)) };
            (copies, [(); 2].map(|()| way.delay_max.mul_f64(chance.random::<f64>())))
        };
        if copies == 0 {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        for delay in delays.into_iter().take(copies) {
            let number = self.passed.fetch_add(1, Ordering::Relaxed);
            if delay.is_zero() {
                self.hand_over(to, packet);
                continue;
            }
            let mut late = lock(&self.late);
            if late.len() < QUEUED_MAX {
                let queued = Queued { due: Instant::now() + delay, number, to, packet: packet.to_vec() };
                late.push(Reverse(queued));
                self.news.notify_one();
            }
        }
    }

    /// What its queue has no room for is lost, as in any network.
    fn hand_over(&self, to: usize, packet: &[u8]) {
        let _: io::Result<usize> = self.devices[to].send(packet);
    }

    fn deliver_late(&self) {
        let mut late = lock(&self.late);
        while !self.ends.load(Ordering::Relaxed) {
            let now = Instant::now();
            let due = late.peek().map(|Reverse(next)| next.due);
            if due.is_some_and(|due| due <= now) {
                let Some(Reverse(next)) = late.pop() else { continue };
                drop(late);
                self.hand_over(next.to, &next.packet);
                late = lock(&self.late);
                continue;
            }
            let nap = due.map_or(Duration::from_millis(50), |due| due - now);
            late = match self.news.wait_timeout(late, nap) {
                Ok((late, _)) => late,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
        // That ends the threads that wait for packets.
        for (namespace, name) in &self.names {
            let _ = ip(&format!("-n {namespace} link del {name}"));
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
