// SPDX-License-Identifier: Apache-2.0
//! The AMD Secure Processor of an SEV-SNP host, in software.
