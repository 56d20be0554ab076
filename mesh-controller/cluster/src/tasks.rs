//! Supervised tasks: none is ever dropped, and when one ends that should not, everybody hears its name.

use tokio::task::JoinSet;

/// A task that ended although it should run for ever.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// It returned.
    #[error("failed to keep task {name:?} running: it ended")]
    Ended {
        /// Its name.
        name: &'static str,
    },
    /// It panicked.
    #[error("failed to keep a task running: it panicked")]
    Panicked(#[source] tokio::task::JoinError),
}

/// Tasks that run as long as this value lives.
#[derive(Debug, Default)]
pub struct Tasks(JoinSet<&'static str>);

impl Tasks {
    /// No task yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a task that is to run for ever.
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(async move {
            task.await;
            name
        });
    }

    /// Waits until one of them ends; for ever when there is none.
    pub async fn ended(&mut self) -> TaskError {
        match self.0.join_next().await {
            Some(Ok(name)) => TaskError::Ended { name },
            Some(Err(error)) => TaskError::Panicked(error),
            None => std::future::pending().await,
        }
    }
}
