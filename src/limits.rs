//! Every bound, by name. Relations between them are asserted at compile time.

use std::time::Duration;

/// The longest name of a lease, in bytes of UTF-8.
pub const NAME_BYTES_MAX: usize = 512;
/// The longest name of an agent, in bytes of UTF-8.
pub const AGENT_NAME_BYTES_MAX: usize = 128;
/// The longest address, in bytes: a DNS name has at most 253.
pub const ADDRESS_BYTES_MAX: usize = 253 + ":65535".len();
/// The most metadata that a lease carries, in bytes.
pub const METADATA_BYTES_MAX: usize = 4 * 1024;
/// The longest ttl.
pub const TTL_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest reason of a revocation, in bytes of UTF-8.
pub const REASON_BYTES_MAX: usize = 512;

/// The most leases and waiters that a cluster holds at once.
pub const LEASES_MAX: usize = 1_000_000;
/// The most waiters in one queue.
pub const WAITERS_PER_NAME_MAX: usize = 100_000;
/// How many log indexes above the last one that its copy has a forced recovery goes on: more than a lost majority can
/// have written beyond it (at a million entries a second, 12 days' worth).
pub const FORCED_INDEX_STEP: u64 = 1 << 40;
/// How many tokens are left out, at least, above the last one of a copy, in a forced recovery that is told where tokens go on:
/// more than a lost majority can have granted beyond the copy; as many as 4 s of the clock are worth.
pub const FORCED_TOKEN_STEP: u64 = 1 << 32;
/// The longest that an agent works on one question of a client's.
pub const ASK_MAX: Duration = Duration::from_secs(30);
/// The most members of a cluster, observers included.
pub const MEMBERS_MAX: usize = 500;
/// The most of them that vote: each entry waits for a majority of them.
pub const VOTERS_MAX: usize = 9;
/// No more entries are sent to a follower at once when their memberships take more bytes than this together.
pub const MEMBERSHIP_BYTES_PER_APPEND: usize = 128 * 1024;
/// The most permits of one name.
pub const PERMITS_MAX: u32 = 100_000;
/// The longest that a name stays closed after an abnormal end.
pub const LOCK_DELAY_MAX: Duration = TTL_MAX;
/// How many ended lease ids the replicated table remembers. A request that is older than its memory is refused.
pub const ENDED_IDS_MAX: usize = 65_536;
/// The most lease ids in one expiry entry.
pub const EXPIRE_MAX: usize = 512;
/// The most commands in one batch entry.
pub const BATCH_MAX: usize = 512;
/// The most leases, waiters or ended ids in one record of a snapshot.
pub const SNAPSHOT_RECORDS_MAX: usize = 1_024;
/// The most lease ids in one renewal message.
pub const RENEW_MAX: usize = 4_096;
/// The largest question that an agent takes, in bytes: a full renewal, and some. Decoded, a question may take dozens of
/// times its length in memory, so that the bound of a frame is too wide for it.
pub const QUESTION_BYTES_MAX: usize = 96 * 1024;

/// The largest decoded value, in bytes. A snapshot is decoded in pieces of at most this size.
pub const DECODED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The largest frame on the wire, in bytes.
pub const FRAME_BYTES_MAX: usize = 8 * 1024 * 1024;
/// The largest frame before the handshake is done, in bytes.
pub const HANDSHAKE_BYTES_MAX: usize = 16 * 1024;
/// A snapshot travels in pieces of this size, in bytes.
pub const SNAPSHOT_CHUNK_BYTES: usize = 1024 * 1024;
/// The most entries in one replication message.
pub const ENTRIES_PER_APPEND_MAX: u64 = 512;
/// The most certificates between a peer's own and its authority's, in what it shows.
pub const TLS_CHAIN_MAX: usize = 4;
/// How many acquisitions an agent or a client asks for at once; those that come later wait behind them. To wait in the queue of
/// a name is not to ask.
pub const ACQUISITIONS_UNDER_WAY_MAX: usize = 512;
/// How many of them are asked for by the futures of those who want them, without a task.
pub const ACQUISITIONS_WITHOUT_TASK_MAX: usize = 64;
/// The most entries that a leader has under way for clients at once; whoever comes next waits for a turn. So a log whose commits
/// are slow grows by about this much at most, however many ask, and however often.
pub const PROPOSALS_UNDER_WAY_MAX: usize = 4_096;
/// The most replication messages to one follower that are under way at once: one with entries, and commit marks.
pub const APPENDS_UNDER_WAY_MAX: usize = 8;
/// The largest encoded log entry, in bytes.
pub const ENTRY_BYTES_MAX: usize = 15 * 1024;

/// The most requests that one connection has in flight.
pub const REQUESTS_IN_FLIGHT_MAX: usize = 1_024;
/// The most addresses that are remembered with how calls to them fare; beyond them, those not in use are forgotten.
pub const LINKS_MAX: usize = 1_024;
/// The most applied changes that an agent remembers: a watcher that asks for older ones is told that it lags.
pub const WATCH_BACKLOG_MAX: usize = 16_384;
/// About the most bytes that they take.
pub const WATCH_BACKLOG_BYTES: usize = 16 * 1024 * 1024;
/// The changes of a log entry that take more bytes than this are not remembered, nor is what was before them.
pub const WATCH_ENTRY_BYTES: usize = 4 * 1024 * 1024;
/// The most leases in one page of a listing, and the most holders and waiters in a report on a name.
pub const PAGE_MAX: usize = 1_000;
/// The most leases that a watcher who lags is told of.
pub const WATCH_PRESENT_MAX: usize = PAGE_MAX;
/// About the most bytes of changes in one answer to a watcher; those of one log entry stay together.
pub const WATCH_ANSWER_BYTES: usize = 1024 * 1024;
/// The most writes that wait for the storage thread.
pub const STORAGE_QUEUE_MAX: usize = 4_096;
/// The largest value in the log's tree, in bytes. A page of sled's holds some 26 of them and must stay under 128 KiB.
pub const RECORD_BYTES_MAX: usize = 4 * 1024;
/// The most bytes that are handed to sled between two syncs. sled writes each about five times; the sum must stay
/// under one of its segments (512 KiB), or it reuses space whose replacement is not on the device yet.
pub const UNSYNCED_BYTES_MAX: usize = 64 * 1024;
/// How many keys a purge removes between two groups of writes.
pub const PURGE_KEYS_MAX: usize = 64;
/// What one of [`REQUESTS_IN_FLIGHT_MAX`] stands for in bytes: a request that is larger counts as several, so that
/// requests in flight are bounded in bytes as well.
pub const FLIGHT_UNIT_BYTES: usize = 32 * 1024;
/// How much a connection reads ahead, and at most gathers into one write, in bytes.
pub const SOCKET_BATCH_BYTES: usize = 64 * 1024;
/// The longest text of a refusal on the wire, in bytes of UTF-8.
pub const REFUSAL_TEXT_BYTES_MAX: usize = 1_024;

/// The largest file of certificates, or of a key, in bytes.
pub const TLS_FILE_BYTES_MAX: usize = 1024 * 1024;
/// How often it is looked whether the files with the certificates are others.
pub const TLS_RELOAD_EVERY: Duration = Duration::from_secs(10);
/// After a handshake that failed it is looked at once, but not more often than so.
pub const TLS_RELOAD_PAUSE: Duration = Duration::from_secs(1);
/// How often it is looked whether the certificate at the other end of a connection still holds. A connection whose peer's
/// certificate has expired, or whose authority is trusted no more, is closed after at most so long.
pub const TLS_RECHECK_EVERY: Duration = Duration::from_secs(5);
/// When this much or less is left of an agent's own certificate, it warns.
pub const TLS_EXPIRY_WARNING: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How often it warns.
pub const TLS_EXPIRY_REMINDER: Duration = Duration::from_secs(24 * 60 * 60);

/// While it counts anything, the leader looks at its deadlines at least this often, so that it notices that it was
/// stopped before it takes that for the holders' silence.
pub const STALL_TICK: Duration = Duration::from_millis(250);
/// A leader that wakes later than asked by more than this was stalled: the delay is added to every deadline.
pub const STALL_TOLERANCE: Duration = Duration::from_millis(50);
/// How long the leader waits before it proposes an expiry again that failed.
pub const EXPIRE_RETRY_PAUSE: Duration = Duration::from_millis(50);

/// The largest number of founders.
pub const FOUNDERS_MAX: usize = 9;

const _: () = {
    assert!(HANDSHAKE_BYTES_MAX < FRAME_BYTES_MAX);
    // An id takes at most 17 bytes.
    assert!(RENEW_MAX * 17 + 64 < QUESTION_BYTES_MAX && ENTRY_BYTES_MAX < QUESTION_BYTES_MAX);
    assert!(QUESTION_BYTES_MAX < FRAME_BYTES_MAX);
    assert!(SNAPSHOT_CHUNK_BYTES < FRAME_BYTES_MAX);
    // A full append, and the memberships in it: those that are counted, and the one that goes beyond them.
    assert!(
        ENTRIES_PER_APPEND_MAX as usize * ENTRY_BYTES_MAX
            + MEMBERSHIP_BYTES_PER_APPEND
            + MEMBERS_MAX * (AGENT_NAME_BYTES_MAX + ADDRESS_BYTES_MAX + 32)
            + 1_024
            < FRAME_BYTES_MAX
    );
    assert!(FOUNDERS_MAX <= MEMBERS_MAX && VOTERS_MAX <= MEMBERS_MAX);
    assert!(NAME_BYTES_MAX + METADATA_BYTES_MAX + AGENT_NAME_BYTES_MAX + 1_024 < ENTRY_BYTES_MAX);
    // An id takes at most 17 bytes, a token 9, its presence 1.
    assert!(EXPIRE_MAX * 27 + 64 < ENTRY_BYTES_MAX);
    assert!(FRAME_BYTES_MAX < DECODED_BYTES_MAX);
    // A lease has a name, metadata, its agent's name, and a revocation's agent's name and reason.
    assert!(
        SNAPSHOT_RECORDS_MAX
            * (NAME_BYTES_MAX + METADATA_BYTES_MAX + 2 * AGENT_NAME_BYTES_MAX + REASON_BYTES_MAX + 256)
            < DECODED_BYTES_MAX
    );
    assert!(WAITERS_PER_NAME_MAX <= LEASES_MAX);
    // The largest frame fits into what may be in flight: no request waits for ever for room.
    assert!(FRAME_BYTES_MAX / FLIGHT_UNIT_BYTES < REQUESTS_IN_FLIGHT_MAX);
    assert!(ACQUISITIONS_WITHOUT_TASK_MAX < ACQUISITIONS_UNDER_WAY_MAX);
    assert!(REFUSAL_TEXT_BYTES_MAX + AGENT_NAME_BYTES_MAX + 256 < HANDSHAKE_BYTES_MAX);
    assert!(STALL_TOLERANCE.as_millis() < STALL_TICK.as_millis());
    // 16 values to a page before it splits, 10 more until it is written anew.
    assert!(26 * (RECORD_BYTES_MAX + 64) < 128 * 1024);
    assert!(ENTRY_BYTES_MAX < UNSYNCED_BYTES_MAX && PURGE_KEYS_MAX * 1_024 <= UNSYNCED_BYTES_MAX);
};
