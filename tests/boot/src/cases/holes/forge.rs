// SPDX-License-Identifier: Apache-2.0
//! What a hostile host makes: a shim and a variable store.

use anyhow::{Context, Result, ensure};

use crate::harness::images::{put_u32, section_header, u32_at};

/// The forged variable as efivarfs names it.
pub const VARIABLE: &str = "CvmmHostVar-63766d6d-0000-4000-8000-000000000001";
const NAME: &str = "CvmmHostVar";
/// Its vendor GUID as it lies in memory.
const VENDOR: [u8; 16] = [0x6d, 0x6d, 0x76, 0x63, 0, 0, 0, 0x40, 0x80, 0, 0, 0, 0, 0, 0, 1];
/// Non-volatile, for boot services and for the running system.
pub const ATTRIBUTES: u32 = 7;
/// Its contents.
pub const CONTENTS: &[u8] = b"injected by the host";

/// LINUX_EFI_INITRD_MEDIA_GUID (kernel include/linux/efi.h): where an EFI boot loader offers an initrd.
const INITRD_MEDIA: [u8; 16] =
    [0x27, 0xe4, 0x68, 0x55, 0xfc, 0x68, 0x3d, 0x4f, 0xac, 0x74, 0xca, 0x55, 0x52, 0x31, 0xcc, 0x68];

/// Makes a shim of a UKI: with an initrd of its own, which its kernel takes instead of the measured one that
/// the firmware offers already. Stub and kernel meet at another GUID, else the stub would find the place
/// taken and give up.
pub fn shim(mut uki: Vec<u8>, initrd: &[u8]) -> Result<Vec<u8>> {
    let places: Vec<_> = (0..uki.len()).filter(|at| uki[*at..].starts_with(&INITRD_MEDIA)).collect();
    ensure!(places.len() == 2, "stub and kernel have {} places of the initrd, expected 2", places.len());
    for at in places {
        uki[at] ^= 1;
    }
    replace_section(&mut uki, *b".initrd\0", initrd)?;
    Ok(uki)
}

/// Gives the section `name` of a PE image new contents, at the end of file and image.
fn replace_section(image: &mut Vec<u8>, name: [u8; 8], contents: &[u8]) -> Result<()> {
    let header = section_header(image, name)?;
    // The optional header has the alignments at 32 and 36, the size of the image at 56.
    let optional = u32_at(image, 0x3c)? + 24;
    let (memory, file) = (u32_at(image, optional + 32)?, u32_at(image, optional + 36)?);
    ensure!(memory.is_power_of_two() && file.is_power_of_two(), "the UKI has no alignment");
    let address = u32_at(image, optional + 56)?.next_multiple_of(memory);
    let start = image.len().next_multiple_of(file);
    let room = contents.len().next_multiple_of(file);
    for (at, value) in [
        (header + 8, contents.len()),
        (header + 12, address),
        (header + 16, room),
        (header + 20, start),
        (optional + 56, address + contents.len().next_multiple_of(memory)),
    ] {
        put_u32(image, at, value)?;
    }
    image.resize(start, 0);
    image.extend(contents);
    image.resize(start + room, 0);
    Ok(())
}

/// gEfiAuthenticatedVariableGuid (edk2 MdeModulePkg/Include/Guid/VariableFormat.h).
const AUTHENTICATED_STORE: [u8; 16] =
    [0x78, 0x2c, 0xf3, 0xaa, 0x7b, 0x94, 0x9a, 0x43, 0xa1, 0x80, 0x2e, 0x14, 0x4e, 0xc3, 0x77, 0x92];

/// The firmware's own variable store, which is empty, with one variable in it. Layout: UEFI PI specification
/// (firmware volume header), edk2 VariableFormat.h (store and variable headers).
pub fn variable_store(firmware: &[u8]) -> Result<Vec<u8>> {
    let cut = "the firmware is cut off";
    let u64_at =
        |at: usize| firmware.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
    ensure!(firmware.get(0x28..0x2c) == Some(b"_FVH"), "the firmware does not begin with a volume");
    let volume = usize::try_from(u64_at(0x20).context(cut)?)?;
    let header = firmware.get(0x30..0x32).context(cut)?;
    let store = usize::from(u16::from_le_bytes([header[0], header[1]]));
    let mut bytes = firmware.get(..volume).context(cut)?.to_vec();
    ensure!(
        bytes.get(store..store + 16) == Some(&AUTHENTICATED_STORE),
        "the firmware's first volume is not a store of authenticated variables"
    );
    let variable = variable();
    let place = bytes.get_mut(store + 28..store + 28 + variable.len()).context("no room for a variable")?;
    ensure!(place.iter().all(|byte| *byte == 0xff), "the firmware comes with variables");
    place.copy_from_slice(&variable);
    Ok(bytes)
}

fn variable() -> Vec<u8> {
    let name: Vec<u8> = NAME.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
    // Start of a variable, and its state: added.
    let mut bytes = vec![0xaa, 0x55, 0x3f, 0];
    bytes.extend(ATTRIBUTES.to_le_bytes());
    // Count, time and key of authenticated updates: there were none.
    bytes.extend([0; 8 + 16 + 4]);
    for len in [name.len(), CONTENTS.len()] {
        bytes.extend((len as u32).to_le_bytes());
    }
    bytes.extend(VENDOR);
    bytes.extend(name);
    bytes.extend(CONTENTS);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shim_has_its_initrd_at_its_end() {
        let (optional, table) = (0x98, 0x98 + 0x50);
        let mut image = vec![0; 0x400];
        image[0x3c] = 0x80;
        image[0x86] = 1; // sections
        image[0x94] = 0x50; // optional header
        put_u32(&mut image, optional + 32, 0x1000).unwrap();
        put_u32(&mut image, optional + 36, 0x200).unwrap();
        put_u32(&mut image, optional + 56, 0x2345).unwrap();
        image[table..table + 8].copy_from_slice(b".initrd\0");
        image[0x200..0x210].copy_from_slice(&INITRD_MEDIA);
        assert!(shim(image.clone(), &[]).is_err(), "a kernel without its stub");
        image[0x300..0x310].copy_from_slice(&INITRD_MEDIA);
        let image = shim(image, &[7; 0x201]).unwrap();
        let fields: Vec<_> = (8..24).step_by(4).map(|at| u32_at(&image, table + at).unwrap()).collect();
        assert_eq!(fields, [0x201, 0x3000, 0x400, 0x400]);
        assert_eq!(u32_at(&image, optional + 56).unwrap(), 0x4000);
        assert_eq!((image.len(), image[0x400], image[0x600], image[0x601]), (0x800, 7, 7, 0));
        assert_eq!((image[0x200], image[0x300]), (INITRD_MEDIA[0] ^ 1, INITRD_MEDIA[0] ^ 1));
    }

    #[test]
    fn the_variable_is_in_the_store() {
        let mut firmware = vec![0xff; 0x3000];
        firmware[0x20..0x28].copy_from_slice(&0x1000_u64.to_le_bytes());
        firmware[0x28..0x2c].copy_from_slice(b"_FVH");
        firmware[0x30..0x32].copy_from_slice(&0x48_u16.to_le_bytes());
        firmware[0x48..0x58].copy_from_slice(&AUTHENTICATED_STORE);
        let store = variable_store(&firmware).unwrap();
        assert_eq!((store.len(), &store[..0x64]), (0x1000, &firmware[..0x64]));
        // The header has 60 bytes; efivarfs names the GUID as text.
        assert_eq!(store[0x64..0x68], [0xaa, 0x55, 0x3f, 0]);
        assert_eq!(store[0x64 + 60..0x64 + 64], [b'C', 0, b'v', 0]);
        let end = 0x64 + variable().len();
        assert!(store[..end].ends_with(CONTENTS) && store[end..].iter().all(|byte| *byte == 0xff));
        assert!(VARIABLE.starts_with(NAME) && VARIABLE.ends_with("-63766d6d-0000-4000-8000-000000000001"));
        firmware[0x48] = 0;
        assert!(variable_store(&firmware).is_err());
        assert!(variable_store(&firmware[..0x20]).is_err());
    }
}
