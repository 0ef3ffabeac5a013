# SPDX-License-Identifier: GPL-2.0-or-later
# The devices of the emulated host: what q35 needs to boot a kernel directly, the 9p shares,
# and an IOMMU. Everything else stays out; that is what makes the build take minutes.
CONFIG_Q35=y
CONFIG_AMD_IOMMU=y
CONFIG_VIRTIO_PCI=y
CONFIG_VIRTIO_BLK=y
CONFIG_VIRTIO_9P=y
CONFIG_VIRTIO_NET=y
CONFIG_VIRTIO_RNG=y
CONFIG_VIRTIO_SERIAL=y
CONFIG_ISA_DEBUG=y
CONFIG_PCI_DEVICES=n
CONFIG_TEST_DEVICES=n
