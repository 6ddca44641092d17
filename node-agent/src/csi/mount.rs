//! What a pod sees: a private directory of ours, attached read-only at the path that its kubelet
//! has chosen.
//!
//! Paths are opened once, from the kubelet's root downwards, through no link (openat2(2)), and
//! everything else is done by what was opened. A mount is made whole before anybody sees it, so
//! that every mount namespace that it spreads to gets it read-only: flags that are changed later
//! do not spread (mount_namespaces(7)).

use super::refused::Refused;
use super::target::Target;
use crate::sys;
use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags, fstat, mkdirat, open,
    openat, openat2, statx, unlinkat,
};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree, unmount};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

/// Mounts that may lie one on the other at a target; more is nothing that anybody has meant.
const STACK: usize = 16;

/// A target whose directory is open.
#[derive(Debug)]
pub(crate) struct Place<'t> {
    target: &'t Target,
    above: OwnedFd,
}

/// What is found at a target.
#[derive(Debug)]
pub(crate) enum Found {
    /// Nothing.
    Nothing,
    /// A directory on which nothing is mounted.
    Directory(OwnedFd),
    /// The root of a mount.
    Mount(OwnedFd),
}

/// How a mount was taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Detached {
    /// There was none.
    Absent,
    /// At once.
    Unmounted,
    /// Somebody still uses it: it is out of everybody's sight, and goes with them.
    Lazily,
}

impl<'t> Place<'t> {
    /// Opens the directory above a target; None if it is not there.
    ///
    /// # Errors
    /// If a link is in the way, or the system refuses.
    pub(crate) fn open(target: &'t Target, root: &Path) -> Result<Option<Self>, Refused> {
        let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // The root is the operator's word, and may well be a link.
        let root = open(root, directory, Mode::empty())
            .map_err(|error| error.into())
            .map_err(Refused::system(format!("opening {}", root.display())))?;
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match openat2(&root, target.above(), directory, Mode::empty(), resolve) {
            Ok(above) => Ok(Some(Self { target, above })),
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::LOOP) => Err(target.refused("a symbolic link is in the way")),
            Err(Errno::NOTDIR) => Err(target.refused("a file is in the way")),
            Err(error) => Err(Refused::system(format!("opening {}", target.as_str()))(
                error.into(),
            )),
        }
    }

    /// Looks at the target itself.
    ///
    /// # Errors
    /// If it is a link or a file, or the system refuses.
    pub(crate) fn look(&self) -> Result<Found, Refused> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match openat(&self.above, self.target.name(), flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(Found::Nothing),
            Err(Errno::LOOP | Errno::NOTDIR) => {
                return Err(self.target.refused("not a directory, but a link or a file"));
            }
            Err(error) => return Err(self.system("opening")(error.into())),
        };
        let is_root = statx(&fd, "", AtFlags::EMPTY_PATH, StatxFlags::empty())
            .map_err(io::Error::from)
            .and_then(|seen| {
                let known = seen
                    .stx_attributes_mask
                    .contains(StatxAttributes::MOUNT_ROOT);
                let is_root = seen.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
                known
                    .then_some(is_root)
                    .ok_or_else(|| io::Error::other("the kernel does not tell what is mounted"))
            });
        match is_root.map_err(self.system("looking at"))? {
            true => Ok(Found::Mount(fd)),
            false => Ok(Found::Directory(fd)),
        }
    }

    /// Makes the target, if it is not there, and attaches `directory` to it.
    ///
    /// # Errors
    /// If something else is mounted there, or the system refuses.
    pub(crate) fn attach(&self, directory: &Path) -> Result<(), Refused> {
        let mut made = false;
        let target = loop {
            match self.look()? {
                Found::Directory(fd) => break fd,
                Found::Mount(_) => return Err(self.taken()),
                Found::Nothing if made => return Err(self.taken()),
                Found::Nothing => {
                    mkdirat(
                        &self.above,
                        self.target.name(),
                        Mode::from_bits_truncate(0o750),
                    )
                    .map_err(io::Error::from)
                    .map_err(self.system("making"))?;
                    made = true;
                }
            }
        };
        let attached = attach(directory, &target);
        drop(target);
        if attached.is_err() && made {
            let _left = self.remove();
        }
        attached.map_err(self.system("mounting at"))
    }

    /// Takes away whatever is mounted at the target, and the target.
    ///
    /// # Errors
    /// If the system refuses, or there is something in the directory.
    pub(crate) fn detach(&self) -> Result<Detached, Refused> {
        let mut how = Detached::Absent;
        for _ in 0..STACK {
            match self.look()? {
                Found::Nothing => return Ok(how),
                Found::Directory(fd) => {
                    drop(fd);
                    self.remove().map_err(self.system("removing"))?;
                    return Ok(how);
                }
                Found::Mount(fd) => drop(fd),
            }
            let path = format!(
                "/proc/self/fd/{}/{}",
                self.above.as_raw_fd(),
                self.target.name()
            );
            match unmount(&path, UnmountFlags::NOFOLLOW) {
                Ok(()) if how == Detached::Absent => how = Detached::Unmounted,
                Ok(()) => {}
                Err(Errno::BUSY) => {
                    unmount(&path, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)
                        .map_err(io::Error::from)
                        .map_err(self.system("detaching"))?;
                    how = Detached::Lazily;
                }
                Err(error) => return Err(self.system("unmounting")(error.into())),
            }
        }
        Err(self.taken())
    }

    fn remove(&self) -> io::Result<()> {
        match unlinkat(&self.above, self.target.name(), AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Something is mounted there that is not ours.
    pub(crate) fn taken(&self) -> Refused {
        Refused::Taken(format!(
            "something else is mounted at {}: unmount it, or delete the pod",
            self.target.as_str()
        ))
    }

    fn system(&self, what: &str) -> impl FnOnce(io::Error) -> Refused + use<> {
        Refused::system(format!("{what} {}", self.target.as_str()))
    }
}

/// Whether a mount shows `directory`: no two directories are one, unless by a mount.
pub(crate) fn shows(mount: &OwnedFd, directory: &Path) -> bool {
    let (Ok(seen), Ok(own)) = (fstat(mount), rustix::fs::stat(directory)) else {
        return false;
    };
    (seen.st_dev, seen.st_ino) == (own.st_dev, own.st_ino)
}

fn attach(directory: &Path, target: &OwnedFd) -> io::Result<()> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, directory, flags)?;
    sys::make_read_only(&tree)?;
    let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(&tree, "", target, "", empty)?)
}

#[cfg(test)]
mod tests;
