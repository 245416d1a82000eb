//! `run`: flock for a cluster. It holds a lease while a command runs, and no longer lets the command run than that.
//!
//! Who ends the command when:
//!
//! | what happens | who | how |
//! | --- | --- | --- |
//! | renewals fail, the deadline comes near | the [guard](crate::guard) | SIGTERM, then SIGKILL before the deadline |
//! | this process is stopped, or too slow | the guard, which hears of no later deadline | the same |
//! | this process is killed | the guard, whose socket closes | the same, at once |
//! | the lease is revoked or handed over | the guard, told so | the same, at once; then the lease is given back |
//! | the cluster says that the lease is over | this process | SIGKILL at once |
//! | the guard is killed, or still stopped when the deadline comes near | this process | SIGKILL at once |
//! | a signal to this process | this process | passes it on to the group |
//! | the command ends | the guard | SIGTERM to what it left behind, then SIGKILL |
//!
//! | something can't be ended | nobody | the lease is not given back: it runs out by its ttl |
//!
//! So the lease's end never waits for this process to run, and rule L1 holds for the command as far as it can without
//! fencing: what believes in the lease is gone before the deadline, and before the lease is given back. And nothing that
//! is said to anybody (the guard, standard error) may keep this process from looking at the clock.
//!
//! | file | what lives there |
//! | --- | --- |
//! | `waiting.rs` | acquiring, and the place in the queue for people to see |
//! | `hold.rs` | the command's life |
//! | `guarded.rs` | the guard as this process sees it |
//! | `keep.rs` | renewals, and news of a revocation |
//! | `teller.rs` | what is told on standard error |

mod guarded;
mod hold;
mod keep;
mod teller;
mod waiting;

use std::time::Duration;

use leasehold::{Client, Lease, Name, Released};
use rustix::process::Signal;

use self::teller::Teller;
use crate::{
    args::RunArgs,
    exit::{self, Failed},
    seam::{self, Either, Signals, select2},
    secure,
};

/// A lease that is lost is given back for at most this long.
const GIVE_BACK_LOST_AT_MOST: Duration = Duration::from_secs(2);

const HEARD: [Signal; 9] = [
    Signal::TERM,
    Signal::INT,
    Signal::HUP,
    Signal::QUIT,
    Signal::USR1,
    Signal::USR2,
    Signal::WINCH,
    Signal::CONT,
    Signal::TSTP,
];

/// Runs the command; the exit code is this program's.
pub(crate) async fn run(args: RunArgs) -> Result<u8, Failed> {
    let teller = Teller::new(args.json, &args.name);
    let code = run_and_tell(args, &teller).await.unwrap_or_else(|failed| {
        teller.failed(&failed);
        failed.code()
    });
    teller.close().await;
    Ok(code)
}

async fn run_and_tell(mut args: RunArgs, teller: &Teller) -> Result<u8, Failed> {
    // What can be wrong without asking anybody, before anybody is asked.
    let name = Name::new(&args.name).map_err(|error| Failed::with(exit::USAGE, error))?;
    if args.ttl.is_some_and(|ttl| ttl.is_zero()) {
        return Err(Failed::with(
            exit::USAGE,
            "a ttl of 0 is no lease at all; ask for --ttl 10s, or leave it out",
        ));
    }
    // Not to wait at all is not to wait for a turn that comes at once.
    args.no_wait |= args.wait.is_some_and(|wait| wait.is_zero());
    let mut signals = Signals::of(&HEARD)?;
    let connecting = secure::client(&args.connect, args.holder.as_deref())?.connect();
    let client = match select2(connecting, ending(&mut signals)).await {
        Either::First(connected) => connected?,
        Either::Second(signal) => return Ok(seam::code_of(signal.as_raw())),
    };
    let acquiring = waiting::acquire(&client, &name, &args, teller);
    let result = match select2(acquiring, ending(&mut signals)).await {
        Either::First(Ok(lease)) => match held(&client, lease, &args, &mut signals, teller).await {
            Ok(result) => result,
            Err(Kept(lease, code)) => {
                // Closing, or dropping one of them, would give the lease back.
                std::mem::forget((lease, client));
                return code;
            }
        },
        Either::First(Err(failed)) => Err(failed),
        Either::Second(signal) => Ok(seam::code_of(signal.as_raw())),
    };
    // Who is in a hurry has asked for the end once more.
    let _ = select2(client.close(), ending(&mut signals)).await;
    result
}

/// The next signal that is to end this process while there is no command yet.
async fn ending(signals: &mut Signals) -> Signal {
    loop {
        match signals.next().await {
            Signal::TSTP => hold::stop_self(),
            Signal::WINCH | Signal::CONT => {}
            signal => return signal,
        }
    }
}

/// A lease that must not be given back, and what to end with.
struct Kept(Lease, Result<u8, Failed>);

/// Holds the lease for the command's life.
///
/// # Errors
/// Something of the command could not be ended.
async fn held(
    client: &Client,
    lease: Lease,
    args: &RunArgs,
    signals: &mut Signals,
    teller: &Teller,
) -> Result<Result<u8, Failed>, Kept> {
    teller.acquired(client, &lease);
    let hold::Outcome { code, left } = hold::hold(client, &lease, args, signals, teller).await;
    let name = lease.name().clone();
    if !left.is_empty() {
        if let Err(failed) = &code {
            teller.note(failed.text());
        }
        let pids = left.iter().map(i32::to_string).collect::<Vec<_>>().join(", ");
        let failed = Failed::with(
            exit::LOST,
            format!(
                "what the command has started can't be killed: process {pids}; so the lease on {name:?} is not given back but runs out by its ttl ({:?}); end it before the next holder's work, or let the resource refuse old tokens",
                lease.ttl()
            ),
        );
        return Err(Kept(lease, Err(failed)));
    }
    // Nothing of the command is left: only now is the lease given back, whatever became of it. Where it was revoked, the
    // next holder waits for this. Where nobody is in reach, it ends by itself.
    let is_lost = code.as_ref().is_ok_and(|code| *code == exit::LOST);
    let within = if is_lost { GIVE_BACK_LOST_AT_MOST } else { Duration::MAX };
    let released = select2(seam::timeout(within, lease.release()), ending(signals)).await;
    let Either::First(Some(released)) = released else { return Ok(code) };
    match released {
        _ if is_lost => {}
        Ok(Released::Released) => teller.released(),
        Ok(Released::WasLost(_)) => {}
        Err(error) => teller.note(&format!("{name:?}: {error}")),
    }
    Ok(code)
}
