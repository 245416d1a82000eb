//! Files and folders that are on the device when the call returns.
//!
//! A file's bytes are durable after an fsync of the *file*; that it exists under its name, after an fsync of its
//! *folder*. Whole files are therefore replaced, never changed in place: write another, sync it, rename it over,
//! sync the folder. A power cut leaves the old file or the new one, and perhaps the other one beside it.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
};

use super::error::StorageError;

/// Puts a folder's entries on the device: what was created, renamed and removed in it.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    // Windows has no such call; its file system journals names by itself.
    if cfg!(windows) { Ok(()) } else { File::open(folder)?.sync_all() }
}

/// Writes `parts`, one after the other, as the file `name` of `folder`, by way of the file `temporary` there.
/// When it returns, the file is on the device under its name; when it fails, the old one is.
pub(super) fn replace(folder: &Path, temporary: &str, name: &str, parts: &[&[u8]]) -> io::Result<()> {
    let path = folder.join(temporary);
    let mut file = File::create(&path)?;
    for part in parts {
        file.write_all(part)?;
    }
    file.sync_all()?;
    fs::rename(&path, folder.join(name))?;
    sync_folder(folder)
}

/// Creates the folder if need be, and makes its name durable.
pub(super) fn make_folder(folder: &Path) -> Result<(), StorageError> {
    fs::create_dir_all(folder).map_err(StorageError::io("cannot create the directory", folder))?;
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
    // A parent that may be searched but not read cannot be synced; a name in it that was made long ago is durable.
    match sync_folder(parent.unwrap_or(Path::new("."))) {
        Err(error) if error.kind() != io::ErrorKind::PermissionDenied => {
            Err(StorageError::io("cannot sync the parent of", folder)(error))
        }
        _ => Ok(()),
    }
}

/// Syncs every file and every folder below `root`, and `root` itself.
pub(super) fn sync_tree(root: &Path) -> Result<(), StorageError> {
    let failed = |path: &Path| StorageError::io("cannot sync", path);
    for item in fs::read_dir(root).map_err(failed(root))? {
        let item = item.map_err(failed(root))?;
        let path = item.path();
        if item.file_type().map_err(failed(&path))?.is_dir() {
            sync_tree(&path)?;
        } else {
            File::open(&path).and_then(|file| file.sync_all()).map_err(failed(&path))?;
        }
    }
    sync_folder(root).map_err(failed(root))
}

/// Removes a file that may be gone already.
pub(super) fn remove_if_there(path: &Path) -> Result<(), StorageError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StorageError::io("cannot remove the leftover", path)(error))
        }
        _ => Ok(()),
    }
}

/// Whether the path exists. A path that can't be examined is an error: it is not taken for absent.
pub(super) fn exists(path: &Path) -> Result<bool, StorageError> {
    path.try_exists().map_err(StorageError::io("cannot examine", path))
}
