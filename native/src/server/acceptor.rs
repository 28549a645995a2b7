//! Gives connections to the threads that own them, and ends both.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc::{Receiver, Sender, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinSet;

use super::connection::serve_connection;
use super::service::Service;
use super::shared::{Shared, Stop, stopped};
use super::thread::ConnectionThread;
use crate::calls::{Event, Kind};
use crate::http::{self, Endpoint};
use crate::http2::{Accepted, Address};

/// The interval of the periodic check, which looks for calls that have ended unnoticed, and for threads that never
/// become idle.
const LOOK_AFTER: Duration = Duration::from_millis(20);

/// A connection that has just been accepted.
pub type Arrival = (Accepted, Service);

/// The channel that gives a thread its connections.
#[derive(Clone)]
pub struct ThreadHandle {
    pub thread: Arc<ConnectionThread>,
    pub arrivals: UnboundedSender<Arrival>,
}

/// Accepts connections at all addresses until the server is asked to stop, and reports when all have drained.
pub async fn accept_all(
    mut addresses: UnboundedReceiver<(Address, Service)>,
    handles: Vec<ThreadHandle>,
    shared: Arc<Shared>,
    stop: Stop,
    mut ended: Receiver<Infallible>,
) {
    let threads: Vec<_> = handles.iter().map(|handle| handle.thread.clone()).collect();
    let drained = async move {
        let endpoints = accept_until(stopped(stop), &mut addresses, handles).await;
        ended.recv().await;
        endpoints
    };
    let endpoints = tokio::select! {
        endpoints = drained => endpoints,
        () = watch(&shared, &threads) => return,
    };
    shared.handlers.inbox.push(Event::new(Kind::Drained, None, None));
    endpoints.iter().for_each(|endpoint| endpoint.inbox.push(http::Event::drained()));
}

/// Accepts connections at all addresses until the server is asked to stop; returns the HTTP endpoints.
async fn accept_until<T>(
    stopped: impl Future<Output = T>,
    addresses: &mut UnboundedReceiver<(Address, Service)>,
    handles: Vec<ThreadHandle>,
) -> Vec<Arc<Endpoint>> {
    let (mut accepting, mut endpoints) = (JoinSet::new(), Vec::new());
    let mut stopped = pin!(stopped);
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            Some((address, service)) = addresses.recv() => {
                endpoints.extend(service.endpoint());
                accepting.spawn(accept(address, service, handles.clone()));
            }
        }
    }
    accepting.shutdown().await;
    // At these addresses no connection has been accepted, but Python waits for their end, too.
    while let Ok((_, service)) = addresses.try_recv() {
        endpoints.extend(service.endpoint());
    }
    endpoints
}

/// Runs the periodic check, as long as there may be anything to do.
async fn watch(shared: &Shared, threads: &[Arc<ConnectionThread>]) {
    let activity = &shared.ended.activity;
    loop {
        tokio::time::sleep(LOOK_AFTER).await;
        let happened = activity.take();
        let waits = shared.look_for_ended();
        threads.iter().for_each(|thread| thread.busy_poll.wake_at_last());
        if !happened && !waits {
            activity.comes().await;
        }
    }
}

/// Accepts connections at one address, and gives each to the thread with the fewest.
async fn accept(address: Address, service: Service, handles: Vec<ThreadHandle>) -> io::Result<()> {
    let listener = address.listen()?;
    loop {
        match listener.accept().await {
            Ok(accepted) => {
                let connections = |handle: &&ThreadHandle| handle.thread.connections.load(Ordering::Relaxed);
                let Some(fewest) = handles.iter().min_by_key(connections) else { return Ok(()) };
                fewest.thread.connections.fetch_add(1, Ordering::Relaxed);
                // Fails only if the server is ending.
                let _ = fewest.arrivals.send((accepted, service.clone()));
            }
            // Probably no file descriptor is free; when a connection ends, one becomes free.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Serves the connections that arrive. Ends when the server stops and these connections have drained, and then drops
/// `_alive`.
pub async fn run_thread(
    thread: Arc<ConnectionThread>,
    mut arrivals: UnboundedReceiver<Arrival>,
    stop: Stop,
    _alive: Sender<Infallible>,
) {
    let mut connections = JoinSet::new();
    let mut stopping = pin!(stopped(stop.clone()));
    let wakes = thread.wakes.clone();
    tokio::spawn(async move { wakes.run(Waker::wake).await });
    let outbox = thread.outbox.clone();
    tokio::spawn(async move { outbox.run().await });
    let keeping = thread.clone();
    tokio::spawn(async move { keeping.spares.run().await });
    let looking = thread.clone();
    tokio::spawn(async move { looking.busy_poll.look().await });
    if thread::available_parallelism().is_ok_and(|cores| cores.get() > 1) {
        // With only one core, a spinning thread would block the threads that it waits for.
        let thread = thread.clone();
        tokio::spawn(async move { thread.busy_poll.run().await });
    }
    let grace = loop {
        tokio::select! {
            biased;
            grace = &mut stopping => break grace,
            Some(_) = connections.join_next() => {
                thread.connections.fetch_sub(1, Ordering::Relaxed);
            }
            Some((accepted, service)) = arrivals.recv() => {
                connections.spawn(serve_connection(accepted, service, thread.clone(), stop.clone()));
            }
        }
    };
    let drained = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(grace, drained).await;
    connections.shutdown().await;
}
