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
//! So the lease's end never waits for this process to run, and rule L1 holds for the command as far as it can without
//! fencing: what believes in the lease is gone before the deadline, and before the lease is given back.
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
    output,
    seam::{self, Either, Signals, select2},
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
    match run_and_tell(args, &teller).await {
        Err(failed) if teller.is_json() => {
            teller.failed(&failed);
            Ok(failed.code())
        }
        result => result,
    }
}

async fn run_and_tell(args: RunArgs, teller: &Teller) -> Result<u8, Failed> {
    // What can be wrong without asking anybody, before anybody is asked.
    let name = Name::new(&args.name).map_err(|error| Failed::with(exit::USAGE, error))?;
    if args.ttl.is_some_and(|ttl| ttl.is_zero()) {
        return Err(Failed::with(
            exit::USAGE,
            "a ttl of 0 is no lease at all; ask for --ttl 10s, or leave it out",
        ));
    }
    let mut signals = Signals::of(&HEARD)?;
    let holder = args.holder.clone().unwrap_or_else(output::own_name);
    let connecting = Client::builder(holder).agents(&args.connect.connect).connect();
    let client = match select2(connecting, ending(&mut signals)).await {
        Either::First(connected) => connected?,
        Either::Second(signal) => return Ok(seam::code_of(signal.as_raw())),
    };
    let acquiring = waiting::acquire(&client, &name, &args, teller);
    let result = match select2(acquiring, ending(&mut signals)).await {
        Either::First(Ok(lease)) => held(&client, lease, &args, &mut signals, teller).await,
        Either::First(Err(failed)) => Err(failed),
        Either::Second(signal) => Ok(seam::code_of(signal.as_raw())),
    };
    client.close().await;
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

async fn held(
    client: &Client,
    lease: Lease,
    args: &RunArgs,
    signals: &mut Signals,
    teller: &Teller,
) -> Result<u8, Failed> {
    teller.acquired(client, &lease);
    // Nothing of the command is left when this returns: only then is the lease given back, whatever became of it.
    let code = hold::hold(client, &lease, args, signals, teller).await;
    let name = lease.name().clone();
    if code.as_ref().is_ok_and(|code| *code == exit::LOST) {
        // Where it was revoked, the next holder waits for this. Where nobody is in reach, it ends by itself.
        let _ = seam::timeout(GIVE_BACK_LOST_AT_MOST, lease.release()).await;
        return code;
    }
    match lease.release().await {
        Ok(Released::Released) => teller.released(),
        Ok(Released::WasLost(_)) => {}
        Err(error) => teller.note(&format!("{name:?}: {error}")),
    }
    code
}
