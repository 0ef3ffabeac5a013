// SPDX-License-Identifier: Apache-2.0
//! The attestation gate. In the making: see `cvmm-gate-client` for its protocol.
