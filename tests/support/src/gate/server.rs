// SPDX-License-Identifier: Apache-2.0
//! A gate that serves on threads of this process.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use cvmm_gate::engine::Engine;
use cvmm_gate::server::{self, Control, Listeners};
use tokio::sync::mpsc;

use super::TestGate;

/// The threads. Dropping it stops them.
pub struct Server {
    control: Option<mpsc::Sender<Control>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves on these listeners.
    pub fn start(engine: Arc<Engine>, listeners: Listeners) -> Self {
        let (control, receiver) = mpsc::channel(4);
        let thread = thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build().unwrap();
            runtime.block_on(server::serve(engine, listeners, receiver)).unwrap();
        });
        Self { control: Some(control), thread: Some(thread) }
    }

    /// Serves on the gate's Unix socket only.
    pub fn unix(engine: Arc<Engine>, gate: &TestGate) -> Self {
        let socket = server::bind(&gate.path("gate.sock")).unwrap();
        Self::start(engine, Listeners { socket, tls: None, status: None, rcar: None })
    }

    /// What a signal would tell it.
    pub fn tell(&self, control: Control) {
        self.control.as_ref().unwrap().blocking_send(control).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.control = None;
        let ended = self.thread.take().unwrap().join();
        assert!(thread::panicking() || ended.is_ok(), "the server panicked");
    }
}
