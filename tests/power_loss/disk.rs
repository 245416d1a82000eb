//! A disk that forgets: rebuilt from the trace of what a process did to it.
//!
//! Per file: the content that was synced, and the changes since. Per folder likewise: the names that were synced,
//! and the changes since. A cut keeps what was synced, and of the changes what [`Loss`] says. A change of a file
//! comes to the device in sectors of 4 KiB, as the page cache holds them at some moment, and in no order; the new
//! size comes or does not, by itself.

use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt as _, path::Path};

use crate::Random;

const SECTOR: usize = 4096;

/// What becomes of changes that were not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// All are lost.
    All,
    /// Each sector, size and name is lost or not, by chance.
    Half,
    /// None is lost: the process was killed, the machine was not.
    None,
}

#[derive(Clone)]
enum FileChange {
    Write(usize, Vec<u8>),
    Resize(usize),
}

#[derive(Clone)]
enum NameChange {
    Link(String, usize),
    Unlink(String),
    Rename(String, String, usize),
}

enum Node {
    File { synced: Vec<u8>, changes: Vec<FileChange> },
    Folder { synced: BTreeMap<String, usize>, changes: Vec<NameChange> },
}

/// The disk below one folder.
pub(crate) struct Disk {
    nodes: Vec<Node>,
    /// Which node an inode number is at the moment: the numbers are used again.
    inodes: BTreeMap<u64, usize>,
}

impl Disk {
    /// All that is below `root` now, taken to be synced. Node 0 is the root.
    pub(crate) fn scan(root: &Path) -> Self {
        let mut disk = Self { nodes: vec![], inodes: BTreeMap::new() };
        disk.scan_node(root);
        disk
    }

    fn scan_node(&mut self, path: &Path) -> usize {
        let meta = fs::metadata(path).unwrap();
        let id = self.nodes.len();
        self.inodes.insert(meta.ino(), id);
        if meta.is_dir() {
            self.nodes.push(Node::Folder { synced: BTreeMap::new(), changes: vec![] });
            let mut names = BTreeMap::new();
            for item in fs::read_dir(path).unwrap() {
                let item = item.unwrap();
                names.insert(item.file_name().into_string().unwrap(), self.scan_node(&item.path()));
            }
            self.nodes[id] = Node::Folder { synced: names, changes: vec![] };
        } else {
            self.nodes.push(Node::File { synced: fs::read(path).unwrap(), changes: vec![] });
        }
        id
    }

    /// Replays the trace that the shim wrote.
    pub(crate) fn replay(&mut self, trace: &[u8]) {
        const HEAD: usize = 33;
        let number = |at: usize| u64::from_le_bytes(trace[at..at + 8].try_into().unwrap());
        let mut at = 0;
        while at + HEAD <= trace.len() {
            let (op, inode, a, len) = (trace[at], number(at + 1), number(at + 9), number(at + 17) as usize);
            at += HEAD;
            // The process may have been killed while it wrote the last one.
            let Some(data) = trace.get(at..at + len) else { break };
            at += len;
            let text = || String::from_utf8(data.to_vec()).unwrap();
            match op {
                1 | 7 => {
                    let id = self.nodes.len();
                    self.nodes.push(if op == 1 {
                        Node::File { synced: vec![], changes: vec![] }
                    } else {
                        Node::Folder { synced: BTreeMap::new(), changes: vec![] }
                    });
                    self.inodes.insert(inode, id);
                    self.names(a).push(NameChange::Link(text(), id));
                }
                2 => self.changes(inode).push(FileChange::Write(a as usize, data.to_vec())),
                3 => self.changes(inode).push(FileChange::Resize(a as usize)),
                4 => self.sync(inode),
                5 => {
                    let (from, to) = data.split_at(data.iter().position(|byte| *byte == b'/').unwrap());
                    let name = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                    let id = self.inodes[&inode];
                    self.names(a).push(NameChange::Rename(name(from), name(&to[1..]), id));
                }
                6 => self.names(a).push(NameChange::Unlink(text())),
                // What a failed sync should have written is gone for good, whatever is synced later.
                8 => self.forget(inode),
                _ => panic!("operation {op} in the trace"),
            }
        }
    }

    fn names(&mut self, inode: u64) -> &mut Vec<NameChange> {
        match &mut self.nodes[self.inodes[&inode]] {
            Node::Folder { changes, .. } => changes,
            Node::File { .. } => panic!("a name in a file"),
        }
    }

    fn changes(&mut self, inode: u64) -> &mut Vec<FileChange> {
        match &mut self.nodes[self.inodes[&inode]] {
            Node::File { changes, .. } => changes,
            Node::Folder { .. } => panic!("a write to a folder"),
        }
    }

    fn sync(&mut self, inode: u64) {
        match &mut self.nodes[self.inodes[&inode]] {
            Node::File { synced, changes } => {
                changes.drain(..).for_each(|change| change_file(synced, &change))
            }
            Node::Folder { synced, changes } => {
                changes.drain(..).for_each(|change| change_names(synced, &change));
            }
        }
    }

    fn forget(&mut self, inode: u64) {
        match &mut self.nodes[self.inodes[&inode]] {
            Node::File { changes, .. } => changes.clear(),
            Node::Folder { changes, .. } => changes.clear(),
        }
    }

    /// Writes what is left after a cut into this empty folder.
    pub(crate) fn cut(&self, loss: Loss, random: &mut Random, into: &Path) {
        self.write(0, loss, random, into);
    }

    fn write(&self, id: usize, loss: Loss, random: &mut Random, path: &Path) {
        match &self.nodes[id] {
            Node::File { synced, changes } => {
                fs::write(path, left_of_file(synced, changes, loss, random)).unwrap()
            }
            Node::Folder { synced, changes } => {
                fs::create_dir_all(path).unwrap();
                for (name, id) in left_of_names(synced, changes, loss, random) {
                    self.write(id, loss, random, &path.join(name));
                }
            }
        }
    }
}

fn change_file(content: &mut Vec<u8>, change: &FileChange) {
    match change {
        FileChange::Write(at, data) => {
            content.resize(content.len().max(at + data.len()), 0);
            content[*at..at + data.len()].copy_from_slice(data);
        }
        FileChange::Resize(len) => content.resize(*len, 0),
    }
}

fn change_names(names: &mut BTreeMap<String, usize>, change: &NameChange) {
    match change {
        NameChange::Link(name, id) => drop(names.insert(name.clone(), *id)),
        NameChange::Unlink(name) => drop(names.remove(name)),
        NameChange::Rename(from, to, id) => {
            names.remove(from);
            names.insert(to.clone(), *id);
        }
    }
}

fn left_of_file(synced: &[u8], changes: &[FileChange], loss: Loss, random: &mut Random) -> Vec<u8> {
    // What the device holds, and what the page cache holds.
    let (mut device, mut cache) = (synced.to_vec(), synced.to_vec());
    for change in changes {
        change_file(&mut cache, change);
        match (loss, change) {
            (Loss::All, _) => {}
            (Loss::None, _) => change_file(&mut device, change),
            (Loss::Half, FileChange::Resize(len)) => {
                if random.coin() {
                    device.resize(*len, 0);
                }
            }
            (Loss::Half, FileChange::Write(at, data)) => {
                for sector in at / SECTOR..(at + data.len()).div_ceil(SECTOR) {
                    if random.coin() {
                        let (from, to) = (sector * SECTOR, ((sector + 1) * SECTOR).min(cache.len()));
                        device.resize(device.len().max(to), 0);
                        device[from..to].copy_from_slice(&cache[from..to]);
                    }
                }
            }
        }
    }
    if loss == Loss::Half {
        device.resize(if random.coin() { cache.len() } else { synced.len() }, 0);
    }
    device
}

fn left_of_names(
    synced: &BTreeMap<String, usize>,
    changes: &[NameChange],
    loss: Loss,
    random: &mut Random,
) -> BTreeMap<String, usize> {
    let mut names = synced.clone();
    // A journal of the file system keeps the order, and loses the end; POSIX promises no order at all.
    let (ordered, kept) = (random.coin(), random.below(changes.len() as u64 + 1) as usize);
    for (at, change) in changes.iter().enumerate() {
        let keep = match loss {
            Loss::All => false,
            Loss::None => true,
            Loss::Half if ordered => at < kept,
            Loss::Half => random.coin(),
        };
        if keep {
            change_names(&mut names, change);
        }
    }
    names
}
