//! The golden file of the status report, apart from the others: it says how an agent is to people and changes more
//! often than they do.
//!
//! After a change that comes with a new format version (or before the first release), remove
//! `tests/golden/message/response_status.hex`, fill the new field in here, and write the file anew with
//! `LEASEHOLD_WRITE_GOLDEN=1 cargo test --lib message::`.

use super::*;
use crate::golden;

/// A report in which every field has a value of its own, and needs all of its bits.
pub(super) fn report() -> StatusReport {
    let member = |n: u64, voter| MemberStatus {
        node: NodeId::from_bits(n),
        agent: format!("agent-{n}"),
        addr: format!("127.0.0.1:710{n}"),
        voter,
    };
    StatusReport {
        agent: AgentName::new("agent-1").unwrap(),
        node: NodeId::from_bits(1),
        cluster: ClusterId::from_bits(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10),
        address: "127.0.0.1:7101".to_owned(),
        version: "0.1.0".to_owned(),
        role: MemberRole::Follower,
        term: (1 << 40) + 1,
        leader: Some(NodeId::from_bits(2)),
        applied: (1 << 40) + 2,
        members: vec![member(1, true), member(2, false)],
        leases: (1 << 40) + 3,
        waiters: (1 << 40) + 4,
        durable: true,
        stopped: Some("the disk is full".to_owned()),
        timing: Timing {
            heartbeat: Duration::new(1 << 33, 1),
            election_timeout_min: Duration::new(1 << 33, 2),
            election_timeout_max: Duration::new(1 << 33, 3),
            ttl: Duration::new(1 << 33, 4),
            clock_drift_max: crate::time::Drift::from_ppm(999_999).unwrap(),
        },
    }
}

#[test]
fn a_status_report_is_encoded_as_ever() {
    let golden = golden::check("message/response_status", &Response::Status(Box::new(report())));
    golden::withstands::<Response>(&[golden]);
}

#[test]
fn a_report_of_an_agent_that_knows_little() {
    let report = StatusReport { leader: None, members: vec![], stopped: None, ..report() };
    let decoded: StatusReport = crate::codec::decode(&crate::codec::encode(&report)).unwrap();
    assert_eq!(decoded, report);
}

#[test]
fn every_role_is_encoded_as_ever() {
    let roles = [MemberRole::Leader, MemberRole::Follower, MemberRole::Observer];
    let goldens = roles.map(|role| {
        let name = match role {
            MemberRole::Leader => "leader",
            MemberRole::Follower => "follower",
            MemberRole::Observer => "observer",
        };
        golden::check(&format!("message/role_{name}"), &role)
    });
    golden::covers_variants::<MemberRole>(&goldens);
    golden::withstands::<MemberRole>(&goldens);
}
