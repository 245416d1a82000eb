//! What one peer, and all of them together, may take of an agent. Settings, unlike [`limits`](crate::limits), which are
//! part of the format or of the code.
//!
//! They are there for the others: whoever floods an agent is to be the one that is refused. A *peer* is a name, as it was
//! given in the handshake. Where nothing proves names, whoever wants to can have many of them, so the bounds for all
//! together are what keeps an agent alive there, and those for one peer what keeps a faulty program from the others.

use crate::{
    config::ConfigFault,
    limits::{FRAME_BYTES_MAX, LEASES_MAX, METADATA_BYTES_MAX, QUESTION_BYTES_MAX, WAITERS_PER_NAME_MAX},
};

/// What one peer, and all of them together, may take of an agent; see [`Builder::quotas`](crate::Builder::quotas).
///
/// | setting | default | what is beyond it |
/// | --- | --- | --- |
/// | `connections` | 1,024 | is refused, and told why |
/// | `connections_per_peer` | 128 | is refused, and told why |
/// | `handshakes` | 256 | is closed at once, or takes the place of one of the host that has most |
/// | `handshakes_per_host` | 128 | is closed at once |
/// | `requests` | 8,192 | is answered that the agent is busy; asked again by the caller's library |
/// | `requests_per_peer` | 1,024 | the same |
/// | `request_bytes` | 256 KiB | ends the connection |
/// | `answer_bytes` | 256 MiB | is not answered: its caller does not read |
/// | `answer_bytes_per_peer` | 32 MiB | the same |
/// | `leases` | 1,000,000 | is refused |
/// | `leases_per_agent` | 250,000 | is refused |
/// | `waiters_per_name` | 100,000 | is refused |
/// | `metadata_bytes` | 4 KiB | is refused |
///
/// Requests and answers are those of clients: members of the cluster are trusted, and bounded for each connection. Of the
/// last four the leader's settings count, so give all agents the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Quotas {
    /// Connections that are accepted, in all. Default 1,024; a member takes three of each other one.
    ///
    /// Hazard: as many as there may be open files, less what the rest of the process needs.
    pub connections: usize,
    /// Connections of one peer. Default 128.
    pub connections_per_peer: usize,
    /// Handshakes under way, in all. Default 256. When all are taken, the host that has most gives one up to one that has
    /// fewer.
    pub handshakes: usize,
    /// Handshakes under way from one host, whatever the port. Default 128. By IPv6, a host is all that shares 64 bits.
    /// Hazard: behind a proxy all are one.
    pub handshakes_per_host: usize,
    /// Requests of clients that are being answered, in all; one of more than 32 KiB counts as several. Default 8,192.
    pub requests: usize,
    /// The same for the clients of one name. Default 1,024, which is what one connection may have.
    pub requests_per_peer: usize,
    /// The largest frame that a client may send, in bytes. Default 256 KiB. The largest question has 96 KiB.
    pub request_bytes: usize,
    /// Answers to clients that are not on their way yet, in bytes, in all. Default 256 MiB.
    pub answer_bytes: usize,
    /// The same for the clients of one name. Default 32 MiB, which is some eight of the largest pages of a listing.
    pub answer_bytes_per_peer: usize,
    /// Leases and waiters, in all. Default and most: 1,000,000.
    pub leases: usize,
    /// Leases and waiters of the agents and clients of one name. Default 250,000.
    pub leases_per_agent: usize,
    /// Waiters for one name. Default and most: 100,000.
    pub waiters_per_name: usize,
    /// Metadata of one lease, in bytes. Default and most: 4 KiB. 0 permits none.
    pub metadata_bytes: usize,
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            connections: 1_024,
            connections_per_peer: 128,
            handshakes: 256,
            handshakes_per_host: 128,
            requests: 8_192,
            requests_per_peer: 1_024,
            request_bytes: 256 * 1024,
            answer_bytes: 256 * 1024 * 1024,
            answer_bytes_per_peer: 32 * 1024 * 1024,
            leases: LEASES_MAX,
            leases_per_agent: LEASES_MAX / 4,
            waiters_per_name: WAITERS_PER_NAME_MAX,
            metadata_bytes: METADATA_BYTES_MAX,
        }
    }
}

/// No count and no number of bytes may be larger: semaphores count in 29 bits on the smallest machines.
const MOST: usize = (1 << 29) - 1;

impl Quotas {
    /// Sets what is called so, as its field is, to so many; whether there is a setting of this name. What it may be is
    /// told at the start.
    pub fn set(&mut self, name: &str, to: usize) -> bool {
        let found = self.bounds().into_iter().find(|(what, ..)| *what == name);
        found.map(|(_, setting, ..)| *setting = to).is_some()
    }

    /// The settings' names.
    #[must_use]
    pub fn names() -> Vec<&'static str> {
        Self::default().bounds().into_iter().map(|(what, ..)| what).collect()
    }

    /// Every setting with the least and the most that it may be.
    fn bounds(&mut self) -> [(&'static str, &mut usize, usize, usize); 13] {
        [
            ("connections", &mut self.connections, 1, MOST),
            ("connections_per_peer", &mut self.connections_per_peer, 1, MOST),
            ("handshakes", &mut self.handshakes, 1, MOST),
            ("handshakes_per_host", &mut self.handshakes_per_host, 1, MOST),
            ("requests", &mut self.requests, 1, MOST),
            ("requests_per_peer", &mut self.requests_per_peer, 1, MOST),
            // The largest question, in its frame.
            ("request_bytes", &mut self.request_bytes, QUESTION_BYTES_MAX + 1_024, MOST),
            ("answer_bytes", &mut self.answer_bytes, FRAME_BYTES_MAX, MOST),
            ("answer_bytes_per_peer", &mut self.answer_bytes_per_peer, FRAME_BYTES_MAX, MOST),
            ("leases", &mut self.leases, 1, LEASES_MAX),
            ("leases_per_agent", &mut self.leases_per_agent, 1, LEASES_MAX),
            ("waiters_per_name", &mut self.waiters_per_name, 1, WAITERS_PER_NAME_MAX),
            ("metadata_bytes", &mut self.metadata_bytes, 0, METADATA_BYTES_MAX),
        ]
    }

    pub(crate) fn faults(mut self, faults: &mut Vec<ConfigFault>) {
        for (what, &mut asked, least, most) in self.bounds() {
            if !(least..=most).contains(&asked) {
                faults.push(ConfigFault::Quota { what, asked, least, most });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_sound_and_every_fault_is_told() {
        let mut faults = Vec::new();
        Quotas::default().faults(&mut faults);
        assert_eq!(faults, []);
        let none = Quotas { connections: 0, leases: LEASES_MAX + 1, ..Quotas::default() };
        none.faults(&mut faults);
        let told: Vec<String> = faults.iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("connections is 0") && told[1].contains("1000001"), "{told:?}");
    }
    #[test]
    fn a_setting_is_found_by_its_name() {
        let mut quotas = Quotas::default();
        for (at, name) in Quotas::names().into_iter().enumerate() {
            assert!(quotas.set(name, at), "{name}");
        }
        assert!(!quotas.set("lease", 1));
        assert_eq!((quotas.connections, quotas.requests, quotas.metadata_bytes), (0, 4, 12));
        assert_eq!(quotas.bounds().map(|(_, setting, ..)| *setting), std::array::from_fn(|at| at));
    }
}
