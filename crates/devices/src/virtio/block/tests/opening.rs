// SPDX-License-Identifier: Apache-2.0
//! Opening disks: kinds of files, formats, options, locks.

use super::*;

fn error(path: &Path) -> DiskError {
    match Block::open(config(path)).unwrap_err() {
        BlockError::Disk(error) => error,
        other => panic!("{other}"),
    }
}

#[test]
fn says_what_is_wrong_with_a_disk() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    assert!(matches!(error(&at("none")), DiskError::Missing(_)));
    assert!(matches!(error(dir.path()), DiskError::Directory(_)));
    assert!(matches!(error(Path::new("/dev/null")), DiskError::Kind { kind: "character device", .. }));
    File::create(at("empty")).unwrap();
    assert!(matches!(error(&at("empty")), DiskError::Empty(_)));
    fs::write(at("odd"), [0; 1000]).unwrap();
    let odd = error(&at("odd"));
    assert!(matches!(odd, DiskError::Unaligned { len: 1000, unit: 512, .. }));
    assert!(odd.to_string().contains("length 1000 is not a multiple of 512 bytes"), "{odd}");
    let fifo = std::process::Command::new("mkfifo").arg(at("fifo")).status().unwrap();
    assert!(fifo.success());
    assert!(matches!(error(&at("fifo")), DiskError::Kind { kind: "fifo", .. }));
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    assert!(matches!(error(&at("socket")), DiskError::Kind { kind: "socket", .. }));
}

#[test]
fn checks_what_was_configured() {
    let (_dir, path) = image();
    let open = |change: fn(&mut BlockConfig)| {
        let mut config = config(&path);
        change(&mut config);
        Block::open(config)
    };
    assert!(open(|c| c.serial = "12345678901234567890".into()).is_ok());
    assert!(matches!(open(|c| c.serial = "123456789012345678901".into()), Err(BlockError::Serial { .. })));
    assert!(matches!(open(|c| c.serial = "tab\t".into()), Err(BlockError::Serial { .. })));
    assert!(matches!(open(|c| c.queues = 0), Err(BlockError::Queues { .. })));
    assert!(matches!(open(|c| c.queues = 17), Err(BlockError::Queues { .. })));
}

#[test]
fn an_image_that_is_not_raw_is_refused_unless_configured_as_raw() {
    let dir = TempDir::new().unwrap();
    let (qcow2, vhd) = (dir.path().join("a.qcow2"), dir.path().join("b.vhd"));
    // An empty qcow2 image's length need not be a multiple of a sector: that it is qcow2 matters more.
    fs::write(&qcow2, [b"QFI\xfb\0\0\0\x03".as_slice(), &[0; 193_000]].concat()).unwrap();
    fs::write(&vhd, [&[0; 1 << 20][..], b"conectix", &[0; 504]].concat()).unwrap();
    for (path, format) in [(&qcow2, "qcow2"), (&vhd, "VHD")] {
        let (before, error) = (fs::read(path).unwrap(), error(path));
        assert!(
            matches!(&error, DiskError::Foreign { format: found, .. } if found.name() == format),
            "{error}"
        );
        let text = error.to_string();
        let command = format!("qemu-img convert -f {} -O raw", if format == "VHD" { "vpc" } else { format });
        assert!(text.contains(&command) && text.contains("format = \"raw\""), "{text}");
        assert!(fs::read(path).unwrap() == before);
        let check = |format| Disk::check(path, false, CacheMode::Writeback, format);
        assert!(matches!(check(ImageFormat::Probe), Err(DiskError::Foreign { .. })));
    }
    Block::open(BlockConfig { format: ImageFormat::Raw, ..config(&vhd) }).unwrap();
    match Block::open(BlockConfig { cache: CacheMode::Direct, ..config(&vhd) }) {
        Err(BlockError::Disk(
            DiskError::Foreign { .. } | DiskError::NoDirect(_) | DiskError::DirectBlocks { .. },
        )) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_check_finds_problems_and_does_not_disturb_a_writer() {
    let (_dir, path) = image();
    let check = |path: &Path| Disk::check(path, false, CacheMode::Writeback, ImageFormat::Probe);
    assert!(matches!(check(&path.with_extension("none")), Err(DiskError::Missing(_))));
    let _writer = Block::open(config(&path)).unwrap();
    check(&path).unwrap();
}

#[test]
fn a_disk_has_one_writer_or_many_readers() {
    let (_dir, path) = image();
    let reader = || Block::open(BlockConfig { read_only: true, ..config(&path) });
    let writer = Block::open(config(&path)).unwrap();
    assert!(matches!(error(&path), DiskError::InUse(_)));
    assert!(matches!(reader(), Err(BlockError::Disk(DiskError::InUse(_)))));
    drop(writer);
    let first = reader().unwrap();
    let second = reader().unwrap();
    assert!(matches!(error(&path), DiskError::InUse(_)));
    drop((first, second));
    Block::open(config(&path)).unwrap();
}
