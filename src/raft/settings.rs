//! openraft's settings. Some are safety, not taste; each of those names the test that fails without it.

use std::time::Duration;

use openraft::{Config, ConfigError, SnapshotPolicy};

use crate::{config::Timing, flaw::planted, limits::ENTRIES_PER_APPEND_MAX};

/// When a snapshot takes the place of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Compaction {
    /// A snapshot is taken after so many entries,
    pub(crate) entries: u64,
    /// and so many are kept behind it for followers that lag a little.
    pub(crate) kept: u64,
}

impl Default for Compaction {
    fn default() -> Self {
        Self { entries: 20_000, kept: 2_000 }
    }
}

fn ms(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn of(timing: &Timing, compaction: Compaction) -> Result<Config, ConfigError> {
    let election_max = ms(timing.election_timeout_max);
    Config {
        cluster_name: "leasehold".to_owned(),
        heartbeat_interval: ms(timing.heartbeat),
        election_timeout_min: ms(timing.election_timeout_min),
        election_timeout_max: election_max,
        install_snapshot_timeout: ms(timing.election_timeout_max * 20),
        max_payload_entries: ENTRIES_PER_APPEND_MAX,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(compaction.entries),
        max_in_snapshot_log_to_keep: compaction.kept,
        replication_lag_threshold: compaction.entries + compaction.kept,
        // 1,000 as a rule.
        purge_batch_size: compaction.entries / 20,
        // Followers are sent an entry while the leader's own disk is still busy with it, not a round of the core's
        // loop later. The log's entries are readable before `append` returns, which this relies on.
        broadcast_submitted_on_append: Some(true),
        // Safety. openraft's default lets a leader that restarts go on in its old term, with log ids that it may
        // have used before the power went: acknowledged writes were lost in 10 of 60 simulated power losses.
        // Pinned by `raft::tests::a_restarted_leader_stands_for_election`.
        enable_leader_restore: Some(planted!(LeaderRestore)),
        // A member that was cut off doesn't depose a healthy leader when it returns.
        // Pinned by `cluster::failures::a_returning_member_deposes_nobody`.
        enable_pre_vote: Some(true),
        // A leader without a quorum falls silent, so that the others can elect one.
        // Pinned by `raft::tests::the_settings_that_are_safety`.
        quorum_loss_probe_interval: Some(election_max * 2),
        backoff: "20ms 40ms 80ms ...400ms".to_owned(),
        ..Config::default()
    }
    .validate()
}
