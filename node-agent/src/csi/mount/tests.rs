//! Real mounts: these need root, and fail without it.

use super::*;
use rustix::fs::{StatVfsMountFlags, statvfs};
use std::os::unix::fs::symlink;
use std::path::PathBuf;

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// A kubelet's root with the directory for one volume in it, and a directory of ours.
struct World {
    folder: tempfile::TempDir,
    target: Target,
}

impl World {
    fn new() -> Result<Self, Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let root = folder.path().join("kubelet");
        let above = root.join("pods/u-1/volumes/kubernetes.io~csi/arx");
        std::fs::create_dir_all(&above)?;
        std::fs::create_dir(folder.path().join("own"))?;
        std::fs::write(folder.path().join("own/file"), "ours")?;
        let path = above.join("mount");
        let target = Target::parse(path.to_str().expect("text"), &root)?;
        Ok(Self { folder, target })
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("kubelet")
    }

    fn own(&self) -> PathBuf {
        self.folder.path().join("own")
    }

    fn path(&self) -> &Path {
        Path::new(self.target.as_str())
    }

    fn place(&self) -> Result<Place<'_>, Refused> {
        Ok(Place::open(&self.target, &self.root())?.expect("the directory above is there"))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Ok(Some(place)) = Place::open(&self.target, &self.root()) {
            let _gone = place.detach();
        }
    }
}

#[test]
fn a_directory_is_seen_read_only_at_the_target_and_nothing_is_left_of_it() -> Outcome {
    let world = World::new()?;
    let place = world.place()?;
    assert!(matches!(place.look()?, Found::Nothing));
    place.attach(&world.own())?;
    assert_eq!(std::fs::read_to_string(world.path().join("file"))?, "ours");
    let refused = std::fs::write(world.path().join("new"), "theirs");
    let error = refused.expect_err("must be read-only");
    assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem);
    let flags = statvfs(world.path())?.f_flag;
    let wanted = StatVfsMountFlags::RDONLY | StatVfsMountFlags::NOSUID | StatVfsMountFlags::NODEV;
    assert!(flags.contains(wanted), "{flags:?}");
    std::fs::write(world.own().join("new"), "ours")?;
    match place.look()? {
        Found::Mount(mount) => {
            assert!(shows(&mount, &world.own()));
            assert!(!shows(&mount, world.folder.path()));
        }
        found => panic!("{found:?}"),
    }
    assert_eq!(place.detach()?, Detached::Unmounted);
    assert!(!world.path().exists());
    assert_eq!(
        place.detach()?,
        Detached::Absent,
        "again, and nothing is there"
    );
    assert!(world.own().join("file").exists());
    Ok(())
}

#[test]
fn a_link_anywhere_below_the_root_is_in_the_way() -> Outcome {
    let world = World::new()?;
    let pods = world.root().join("pods");
    std::fs::rename(&pods, world.folder.path().join("elsewhere"))?;
    symlink(world.folder.path().join("elsewhere"), &pods)?;
    let refused = Place::open(&world.target, &world.root()).map(|_| ());
    let refused = refused.expect_err("a link above");
    assert_eq!(refused.code(), "ARX-CSI-TARGET");
    assert!(refused.to_string().contains("symbolic link"), "{refused}");

    let world = World::new()?;
    symlink("/etc", world.path())?;
    for refused in [
        world.place()?.attach(&world.own()),
        world.place()?.detach().map(|_| ()),
    ] {
        let refused = refused.expect_err("the target is a link");
        assert_eq!(refused.code(), "ARX-CSI-TARGET");
    }
    std::fs::remove_file(world.path())?;
    std::fs::write(world.path(), "a file")?;
    let refused = world.place()?.attach(&world.own());
    assert_eq!(refused.expect_err("a file").code(), "ARX-CSI-TARGET");
    Ok(())
}

#[test]
fn where_something_else_is_mounted_nothing_is() -> Outcome {
    let world = World::new()?;
    let other = world.folder.path().join("other");
    std::fs::create_dir(&other)?;
    let place = world.place()?;
    place.attach(&other)?;
    let refused = place.attach(&world.own()).expect_err("it is taken");
    assert_eq!(refused.code(), "ARX-CSI-TAKEN");
    assert!(
        std::fs::read_dir(world.path())?.next().is_none(),
        "still the other"
    );
    Ok(())
}

#[test]
fn a_mount_that_is_in_use_is_out_of_sight_at_once_and_usable_until_its_user_ends() -> Outcome {
    let world = World::new()?;
    let place = world.place()?;
    place.attach(&world.own())?;
    let user = std::fs::File::open(world.path().join("file"))?;
    assert_eq!(place.detach()?, Detached::Lazily);
    assert!(!world.path().exists());
    assert_eq!(io::read_to_string(user)?, "ours");
    Ok(())
}

#[test]
fn without_the_directory_above_there_is_no_place() -> Outcome {
    let world = World::new()?;
    std::fs::remove_dir_all(world.root().join("pods"))?;
    assert!(Place::open(&world.target, &world.root())?.is_none());
    Ok(())
}

#[test]
fn a_target_that_can_t_be_mounted_at_is_not_left_behind() -> Outcome {
    let world = World::new()?;
    let place = world.place()?;
    let refused = place.attach(&world.folder.path().join("missing"));
    assert_eq!(
        refused.expect_err("nothing to show").code(),
        "ARX-CSI-SYSTEM"
    );
    assert!(!world.path().exists());
    Ok(())
}
