//! Counters in the text format of Prometheus. They name operations, errors and states, never keys,
//! users or addresses.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::sigv4::AuthKind;

/// Upper bounds of the latency histogram's buckets, in microseconds.
const BUCKETS: [u64; 12] =
    [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 50_000, 100_000, 500_000, 2_000_000, 10_000_000];

/// What is counted. May be used from any thread.
#[derive(Default)]
pub(super) struct Metrics {
    /// By operation and result. Both come from fixed lists, so there are never many.
    requests: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
    /// By operation.
    latency: Mutex<BTreeMap<&'static str, Histogram>>,
    /// By kind, in the order of [`AuthKind::ALL`].
    rejected: [AtomicU64; AuthKind::ALL.len()],
    pub(super) replayed: AtomicU64,
    pub(super) open_connections: AtomicUsize,
    pub(super) connections: AtomicU64,
    /// Connections for which there was no room.
    pub(super) turned_away: AtomicU64,
}

#[derive(Default)]
struct Histogram {
    /// Not cumulative; the last one is for what is above all bounds.
    counts: [u64; BUCKETS.len() + 1],
    sum: Duration,
}

impl Metrics {
    /// Counts a request that was carried out or refused.
    pub(super) fn answered(&self, operation: &'static str, result: &'static str, took: Duration) {
        *self.requests.lock().entry((operation, result)).or_default() += 1;
        self.latency.lock().entry(operation).or_default().add(took);
    }

    /// Counts a request that was not believed.
    pub(super) fn rejected(&self, kind: AuthKind) {
        if let Some(index) = AuthKind::ALL.iter().position(|known| *known == kind) {
            self.rejected[index].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Everything, with what the key service says of itself: its keys by state and its mounts.
    pub(super) fn render(&self, keys: &BTreeMap<String, u64>, mounts: usize) -> String {
        let mut page = Page::default();
        page.head("kmsfs_requests_total", "counter", "Calls of the key service by operation and result.");
        for ((operation, result), count) in &*self.requests.lock() {
            page.line("kmsfs_requests_total", &[("operation", operation), ("result", result)], count);
        }
        page.head("kmsfs_request_duration_seconds", "histogram", "Time from a request's head to its answer.");
        for (operation, histogram) in &*self.latency.lock() {
            histogram.render(&mut page, operation);
        }
        page.head(
            "kmsfs_rejected_authentications_total",
            "counter",
            "Requests whose signature was not believed.",
        );
        for (kind, count) in AuthKind::ALL.iter().zip(&self.rejected) {
            page.line(
                "kmsfs_rejected_authentications_total",
                &[("reason", kind.name())],
                count.load(Ordering::Relaxed),
            );
        }
        let replayed = self.replayed.load(Ordering::Relaxed);
        page.single(
            "kmsfs_replayed_requests_total",
            "counter",
            "Requests refused as copies of earlier ones.",
            replayed,
        );
        let open = self.open_connections.load(Ordering::Relaxed);
        page.single("kmsfs_connections", "gauge", "Open network connections.", open);
        let all = self.connections.load(Ordering::Relaxed);
        page.single("kmsfs_connections_total", "counter", "Network connections since the start.", all);
        let away = self.turned_away.load(Ordering::Relaxed);
        page.single(
            "kmsfs_connections_turned_away_total",
            "counter",
            "Connections that there was no room for.",
            away,
        );
        page.head("kmsfs_keys", "gauge", "Master keys by state, those of volumes left out.");
        for (state, count) in keys {
            page.line("kmsfs_keys", &[("state", state)], count);
        }
        page.single("kmsfs_mounts", "gauge", "Mounts that follow this key service.", mounts);
        page.0
    }
}

impl Histogram {
    fn add(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS.iter().position(|bound| micros <= *bound).unwrap_or(BUCKETS.len());
        self.counts[bucket] += 1;
        self.sum += took;
    }

    fn render(&self, page: &mut Page, operation: &str) {
        const NAME: &str = "kmsfs_request_duration_seconds";
        let mut total = 0;
        for (index, count) in self.counts.iter().enumerate() {
            total += count;
            let bound = BUCKETS.get(index).map(|micros| (*micros as f64 / 1e6).to_string());
            let bound = bound.as_deref().unwrap_or("+Inf");
            page.line(&format!("{NAME}_bucket"), &[("operation", operation), ("le", bound)], total);
        }
        page.line(&format!("{NAME}_sum"), &[("operation", operation)], self.sum.as_secs_f64());
        page.line(&format!("{NAME}_count"), &[("operation", operation)], total);
    }
}

/// Lines of the exposition format. Writing to a string cannot fail.
#[derive(Default)]
struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
        let _ = writeln!(self.0, "{name}{{{}}} {value}", labels.join(","));
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.head(name, kind, help);
        let _ = writeln!(self.0, "{name} {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_add_up() {
        let metrics = Metrics::default();
        for micros in [50, 100, 101, 20_000_000] {
            metrics.answered("Decrypt", "ok", Duration::from_micros(micros));
        }
        metrics.answered("Decrypt", "DisabledException", Duration::from_micros(70));
        metrics.rejected(AuthKind::Invalid);
        let page = metrics.render(&BTreeMap::from([("Enabled".to_owned(), 3)]), 2);
        for line in [
            "kmsfs_requests_total{operation=\"Decrypt\",result=\"ok\"} 4",
            "kmsfs_requests_total{operation=\"Decrypt\",result=\"DisabledException\"} 1",
            "kmsfs_request_duration_seconds_bucket{operation=\"Decrypt\",le=\"0.0001\"} 3",
            "kmsfs_request_duration_seconds_bucket{operation=\"Decrypt\",le=\"0.00025\"} 4",
            "kmsfs_request_duration_seconds_bucket{operation=\"Decrypt\",le=\"10\"} 4",
            "kmsfs_request_duration_seconds_bucket{operation=\"Decrypt\",le=\"+Inf\"} 5",
            "kmsfs_request_duration_seconds_count{operation=\"Decrypt\"} 5",
            "kmsfs_rejected_authentications_total{reason=\"InvalidSignatureException\"} 1",
            "kmsfs_rejected_authentications_total{reason=\"MissingAuthenticationTokenException\"} 0",
            "kmsfs_keys{state=\"Enabled\"} 3",
            "kmsfs_mounts 2",
        ] {
            assert!(page.lines().any(|have| have == line), "{line}\n{page}");
        }
    }
}
