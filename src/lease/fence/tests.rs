use std::{process::Command, thread};

use super::*;

fn token(n: u64) -> Token {
    Token::new(n)
}

fn stale(result: Result<(), FenceError>, expected: (u64, u64)) {
    match result {
        Err(FenceError::Stale { token, largest }) => assert_eq!((token.get(), largest.get()), expected),
        other => panic!("{other:?}"),
    }
}

fn admits_what_is_not_smaller(fence: &Fence) {
    assert_eq!(fence.largest().unwrap(), None);
    fence.admit(token(5)).unwrap();
    fence.admit(token(5)).unwrap();
    stale(fence.admit(token(4)), (4, 5));
    assert_eq!(fence.largest().unwrap(), Some(token(5)), "what is refused leaves no trace");
    fence.admit(token(u64::MAX)).unwrap();
    stale(fence.admit(token(u64::MAX - 1)), (u64::MAX - 1, u64::MAX));
    assert_eq!(fence.admit_then(token(u64::MAX), || 3).unwrap(), 3);
    assert!(fence.admit_then(token(1), || panic!("not run")).is_err());
}

#[test]
fn in_memory() {
    admits_what_is_not_smaller(&Fence::in_memory());
}

#[test]
fn in_a_file_over_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.fence");
    admits_what_is_not_smaller(&Fence::in_file(&path).unwrap());
    let again = Fence::in_file(&path).unwrap();
    assert_eq!(again.largest().unwrap(), Some(token(u64::MAX)));
    stale(again.admit(token(7)), (7, u64::MAX));
}

#[test]
fn two_fences_on_one_file_share_its_mark() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mark");
    let (a, b) = (Fence::in_file(&path).unwrap(), Fence::in_file(&path).unwrap());
    a.admit(token(5)).unwrap();
    stale(b.admit(token(4)), (4, 5));
    b.admit(token(6)).unwrap();
    stale(a.admit(token(5)), (5, 6));
    // Also under another name of the same file.
    #[cfg(unix)]
    {
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        Fence::in_file(&link).unwrap().admit(token(7)).unwrap();
        stale(a.admit(token(6)), (6, 7));
        assert!(link.is_symlink());
        // A link to nothing yet: a file in its place would not be the one that it means.
        let (link, file) = (folder.path().join("early"), folder.path().join("later"));
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(Fence::in_file(&link).is_err() && link.is_symlink());
    }
}

/// Every state in which a crash can leave the two files while 9 replaces 5: the mark is 5 or 9, and works.
#[test]
fn a_crash_at_any_point_leaves_the_old_mark_or_the_new() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mark");
    let (old, new) = (FileMark(5).to_bytes(), FileMark(9).to_bytes());
    for written in 0..=FILE_BYTES {
        for rest in [None, Some(0), Some(0xff)] {
            // Written up to here; the rest of the length is missing, or is there without its bytes.
            let mut torn = new[..written].to_vec();
            if let Some(byte) = rest {
                torn.resize(FILE_BYTES, byte);
            }
            fs::write(&path, old).unwrap();
            fs::write(beside(&path, ".new"), torn).unwrap();
            let fence = Fence::in_file(&path).unwrap();
            assert_eq!(fence.largest().unwrap(), Some(token(5)));
            stale(fence.admit(token(4)), (4, 5));
            fence.admit(token(9)).unwrap();
            stale(fence.admit(token(5)), (5, 9));
        }
    }
    fs::write(&path, new).unwrap();
    stale(Fence::in_file(&path).unwrap().admit(token(8)), (8, 9));
}

/// Truncated, flipped or prolonged at each byte and bit: a clear error, and nothing is admitted.
#[test]
fn damage_anywhere_refuses_everything() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mark");
    let whole = FileMark(0x0123_4567_89ab_cdef).to_bytes();
    let mut damaged: Vec<Vec<u8>> = (0..FILE_BYTES).map(|len| whole[..len].to_vec()).collect();
    for bit in 0..FILE_BYTES * 8 {
        let mut bytes = whole;
        bytes[bit / 8] ^= 1 << (bit % 8);
        damaged.push(bytes.to_vec());
    }
    damaged.push([&whole[..], &[0]].concat());
    damaged.push(vec![0; FILE_BYTES]);
    damaged.push(vec![b'x'; 1 << 20]);
    fs::write(&path, whole).unwrap();
    let open_before = Fence::in_file(&path).unwrap();
    for bytes in damaged {
        fs::write(&path, &bytes).unwrap();
        let error = Fence::in_file(&path).unwrap_err();
        assert!(matches!(error, FenceError::Damaged { .. }), "{error:?} of {bytes:?}");
        assert!(error.to_string().contains(path.file_name().unwrap().to_str().unwrap()), "{error}");
        let error = open_before.admit(token(u64::MAX)).unwrap_err();
        assert!(matches!(error, FenceError::Damaged { .. }), "{error:?}");
        assert!(open_before.largest().is_err());
        assert_eq!(fs::read(&path).unwrap(), bytes, "the evidence is left as it is");
    }
}

#[test]
fn a_file_that_is_gone_does_not_count_as_new() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mark");
    let fence = Fence::in_file(&path).unwrap();
    fs::remove_file(&path).unwrap();
    assert!(matches!(fence.admit(token(9)), Err(FenceError::Gone { .. })));
    assert!(matches!(fence.largest(), Err(FenceError::Gone { .. })));
}

#[test]
fn what_can_not_be_opened_or_written_is_an_error_that_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("no such folder").join("mark");
    for path in [missing.as_path(), folder.path(), Path::new(""), Path::new("/")] {
        let error = Fence::in_file(path).unwrap_err();
        assert!(matches!(error, FenceError::Io { .. }), "{error:?}");
    }
    // A device that takes nothing: here, a folder where the new mark would be written.
    let path = folder.path().join("mark");
    let fence = Fence::in_file(&path).unwrap();
    fence.admit(token(5)).unwrap();
    fs::create_dir(beside(&path, ".new")).unwrap();
    assert!(matches!(fence.admit_then(token(6), || panic!("not run")), Err(FenceError::Io { .. })));
    assert_eq!(fence.largest().unwrap(), Some(token(5)));
    fence.admit(token(5)).unwrap();
    fs::remove_dir(beside(&path, ".new")).unwrap();
    fence.admit(token(6)).unwrap();
}

#[cfg(unix)]
fn syncs(fence: &Fence) -> u32 {
    match &fence.mark {
        Mark::File(file) => locked(file).syncs.get(),
        Mark::Memory(_) => 0,
    }
}

/// Once a grant, not once a write; and once for a mark that another process may have left without its sync.
#[cfg(unix)]
#[test]
fn the_folder_is_synced_before_a_mark_is_relied_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mark");
    let (a, b) = (Fence::in_file(&path).unwrap(), Fence::in_file(&path).unwrap());
    assert_eq!((syncs(&a), syncs(&b)), (1, 0));
    for _ in 0..10 {
        a.admit(token(5)).unwrap();
    }
    assert_eq!(syncs(&a), 2);
    for _ in 0..10 {
        b.admit(token(5)).unwrap();
    }
    assert_eq!(syncs(&b), 1);
    let found = Fence::in_file(&path).unwrap();
    found.admit(token(5)).unwrap();
    assert_eq!(syncs(&found), 1);
}

#[test]
fn a_panicking_write_gives_the_locks_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mark");
    for fence in [Fence::in_memory(), Fence::in_file(&path).unwrap()] {
        let write = || -> () { panic!("the resource's own fault") };
        thread::scope(|s| s.spawn(|| fence.admit_then(token(5), write)).join()).unwrap_err();
        stale(fence.admit(token(4)), (4, 5));
    }
    Fence::in_file(&path).unwrap().admit(token(5)).unwrap();
}

/// What two kinds of writers do to one resource: each line is written under the fence, as length and token.
fn write_some(fence: &Fence, resource: &Path, tokens: impl Iterator<Item = u64>) {
    for n in tokens {
        let written = fence.admit_then(token(n), || {
            // Not atomic by itself: read all, write all.
            let mut lines = fs::read_to_string(resource).unwrap();
            lines.push_str(&format!("{n}\n"));
            fs::write(resource, lines).unwrap();
        });
        match written {
            Ok(()) | Err(FenceError::Stale { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

fn tokens_only_grow(resource: &Path) {
    let lines = fs::read_to_string(resource).unwrap();
    let tokens: Vec<u64> = lines.lines().map(|line| line.parse().unwrap()).collect();
    assert!(tokens.is_sorted(), "an older writer came after a newer: {tokens:?}");
    assert_eq!(tokens.last(), Some(&61), "the largest is never refused");
}

#[test]
fn threads_at_one_fence_and_at_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let (path, resource) = (folder.path().join("mark"), folder.path().join("resource"));
    let shared = [Fence::in_memory(), Fence::in_file(&path).unwrap()];
    let of_its_own = (0..3).map(|_| Fence::in_file(&path).unwrap()).collect::<Vec<_>>();
    for fences in [vec![&shared[0]; 3], vec![&shared[1]; 3], of_its_own.iter().collect()] {
        fs::write(&resource, "").unwrap();
        thread::scope(|scope| {
            for (i, fence) in (0..).zip(fences) {
                let resource = &resource;
                scope.spawn(move || write_some(fence, resource, (i..62).step_by(3).chain([61])));
            }
        });
        tokens_only_grow(&resource);
        let _ = fs::remove_file(&path);
        drop(Fence::in_file(&path).unwrap());
    }
}

const CHILD: &str = "LEASEHOLD_TEST_FENCE_CHILD";

/// The same from processes of their own. The test calls its own program with its own name, and a variable set.
#[test]
fn processes_at_one_file() {
    if let Ok(order) = std::env::var(CHILD) {
        let (first, folder) = order.split_once(' ').unwrap();
        let folder = Path::new(folder);
        let fence = Fence::in_file(folder.join("mark")).unwrap();
        let tokens = (first.parse().unwrap()..62).step_by(3).chain([61]);
        return write_some(&fence, &folder.join("resource"), tokens);
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("resource"), "").unwrap();
    let children: Vec<_> = (0..3)
        .map(|first| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "lease::fence::tests::processes_at_one_file"])
                .env(CHILD, format!("{first} {}", folder.path().display()))
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    tokens_only_grow(&folder.path().join("resource"));
}

#[test]
fn the_form_in_the_file_stays() {
    let bytes = FileMark(0x0102_0304_0506_0708).to_bytes();
    assert_eq!(bytes[..16], *b"LHFENCE\x01\x08\x07\x06\x05\x04\x03\x02\x01");
    assert_eq!(FileMark::from_bytes(&bytes), Ok(FileMark(0x0102_0304_0506_0708)));
    let mut newer = bytes;
    newer[7] = 2;
    assert!(FileMark::from_bytes(&newer).unwrap_err().contains("version 2"));
}

#[test]
fn a_fences_file_is_written_and_read_as_ever() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("resource");
    let fence = Fence::in_file(&path).unwrap();
    let new = crate::golden::check_unversioned("fence/new", &fs::read(&path).unwrap());
    fence.admit(token(0x0102_0304_0506_0708)).unwrap();
    let admitted = crate::golden::check_unversioned("fence/admitted", &fs::read(&path).unwrap());

    for (golden, largest) in [(&new, None), (&admitted, Some(token(0x0102_0304_0506_0708)))] {
        fs::write(&path, golden).unwrap();
        assert_eq!(Fence::in_file(&path).unwrap().largest().unwrap(), largest);
    }
    crate::golden::hostile(&[new, admitted], |bytes| {
        if let Ok(mark) = FileMark::from_bytes(bytes) {
            assert_eq!(mark.to_bytes(), bytes);
        }
    });
}
