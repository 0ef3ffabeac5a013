// SPDX-License-Identifier: Apache-2.0
//! What the devices at fixed ports have done.

use cvmm_metrics::counters;

counters! {
    /// Of a register that switches the machine off or resets it.
    pub struct PowerMetrics {
        /// Transitions asked for.
        requests,
    }
}

counters! {
    /// Of the sleep status register.
    pub struct SleepStatusMetrics {
        /// Times that the guest read that it was woken up.
        wakes,
    }
}

counters! {
    /// Of the real time clock.
    pub struct RtcMetrics {
        /// Fields of the time read.
        time_reads,
        /// Attempts to set it, which are ignored.
        errors,
    }
}

counters! {
    /// Of the power management timer.
    pub struct PmTimerMetrics {
        /// Reads that made the guest wait.
        naps,
        /// Microseconds it waited.
        nap_micros,
    }
}

counters! {
    /// Of the serial port.
    pub struct SerialMetrics {
        /// Bytes from the host that the guest could read.
        bytes_in,
        /// Bytes that the guest wrote to the transmitter.
        bytes_out,
        /// Accesses that the register model refused, and interrupts that were lost.
        errors,
    }
}

counters! {
    /// Of a buffer in front of a terminal.
    pub struct ConsoleOutMetrics {
        /// Bytes taken.
        bytes,
        /// Of these, bytes lost because the terminal did not take them.
        dropped,
        /// Waits of a vCPU that were in vain.
        stalls,
    }
}
