//! What the machine itself takes: the floor under every other number. Measured anew beside each that is held against
//! it, because a shared machine changes from minute to minute.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use crate::report::Samples;

/// Round trips of 64 bytes between two threads over loopback TCP.
pub(crate) fn round_trip(span: Duration) -> Samples {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    let address = listener.local_addr().expect("its address");
    let echo = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        let mut bytes = [0; 64];
        while stream.read_exact(&mut bytes).is_ok() && stream.write_all(&bytes).is_ok() {}
    });
    let mut samples = Samples::default();
    {
        let mut stream = TcpStream::connect(address).expect("loopback");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        let mut bytes = [7; 64];
        let end = Instant::now() + span;
        while Instant::now() < end {
            let began = Instant::now();
            stream.write_all(&bytes).expect("loopback");
            stream.read_exact(&mut bytes).expect("loopback");
            samples.add_ms(began.elapsed());
        }
    }
    echo.join().expect("the echo");
    samples
}

/// Appends of 512 bytes, each followed by an fdatasync, to a file beside the data directories.
pub(crate) fn append_and_sync(folder: &Path, span: Duration, samples: &mut Samples) {
    let path = folder.join("floor");
    let mut file = File::create(&path).expect("a file beside the data directories");
    let end = Instant::now() + span;
    while Instant::now() < end {
        let began = Instant::now();
        file.write_all(&[7; 512]).expect("room on the disk");
        file.sync_data().expect("fdatasync");
        samples.add_ms(began.elapsed());
    }
    drop(file);
    std::fs::remove_file(&path).expect("the floor's file");
}
