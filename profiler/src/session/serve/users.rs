//! Who may make requests, with which password: how many passwords are checked at a time, which
//! correct ones are remembered, and that nobody can find out which user names exist.

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bcrypt::HashParts;
use hyper::header::HeaderValue;
use tokio::sync::Semaphore;

use super::connections::Source;

/// Checking a password takes twice as long with each cost more: above this, seconds.
const MAX_COST: u32 = 14;
/// The cost of a hash if there are no hashes to derive it from.
const USUAL_COST: u32 = 10;
/// After a wrong password, checks pause for this multiple of the time that the check took: guessing
/// uses at most a fifth of a core.
const REST: u32 = 4;
/// The most passwords in the queue, one of which is being checked. Further clients must ask again.
const MAX_CHECKS: usize = 5;
/// The same for one source, so that a single one cannot block all checks.
const CHECKS_OF_EACH: usize = 2;
/// At most this many correct passwords are remembered, so that they are not checked again.
const MAX_KNOWN: usize = 64;

/// Whether a request is permitted.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    Permitted,
    Refused,
    /// Nothing was checked, as too many wait.
    Busy,
}

/// Whether this is a hash that can be checked in a reasonable time.
pub(super) fn check(hash: &str) -> Result<(), String> {
    match HashParts::from_str(hash) {
        Err(_) => Err("this is not a bcrypt hash, as `htpasswd -nBC 10 NAME` prints it".into()),
        Ok(parts) if parts.get_cost() > MAX_COST => Err(format!(
            "the cost {} of this bcrypt hash is above {MAX_COST}: checking it would take seconds",
            parts.get_cost()
        )),
        Ok(_) => Ok(()),
    }
}

/// The cost of a hash that was checked before.
fn cost(hash: &str) -> u32 {
    HashParts::from_str(hash).map_or(USUAL_COST, |parts| parts.get_cost())
}

/// The hash with which the password of a nonexistent user is compared.
fn nobodys(cost: u32) -> String {
    format!("$2y${cost:02}$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi")
}

/// Password checks. They outlive one reading of the file: a correct password stays correct until
/// the hash changes.
pub(super) struct Checks {
    /// Correct combinations of user, hash and password, as two hashes with keys of this process
    /// alone.
    known: Mutex<HashSet<Mark>>,
    keys: (RandomState, RandomState),
    /// One password at a time is checked.
    turn: Arc<Semaphore>,
    /// Whose passwords are checked or wait.
    under_way: Mutex<Vec<Source>>,
}

type Mark = (u64, u64);

impl Checks {
    pub(super) fn new() -> Self {
        Self {
            known: Mutex::default(),
            keys: (RandomState::new(), RandomState::new()),
            turn: Arc::new(Semaphore::new(1)),
            under_way: Mutex::default(),
        }
    }

    fn mark(&self, user: &str, hash: &str, password: &[u8]) -> Mark {
        let what = (user, hash, password);
        (self.keys.0.hash_one(what), self.keys.1.hash_one(what))
    }

    fn known(&self) -> MutexGuard<'_, HashSet<Mark>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, mark: Mark) {
        let mut known = self.known();
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(mark);
    }

    fn under_way(&self) -> MutexGuard<'_, Vec<Source>> {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place among the passwords that are checked or wait.
struct Place {
    checks: Arc<Checks>,
    source: Source,
}

impl Place {
    fn take(checks: &Arc<Checks>, source: Source) -> Option<Self> {
        let mut under_way = checks.under_way();
        let of_source = under_way.iter().filter(|one| **one == source).count();
        if under_way.len() >= MAX_CHECKS || of_source >= CHECKS_OF_EACH {
            return None;
        }
        under_way.push(source);
        Some(Self {
            checks: Arc::clone(checks),
            source,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut under_way = self.checks.under_way();
        if let Some(at) = under_way.iter().position(|one| *one == self.source) {
            under_way.swap_remove(at);
        }
    }
}

/// Users and their passwords.
pub(super) struct Users {
    hashes: BTreeMap<String, String>,
    /// The highest cost of a hash.
    cost: u32,
    checks: Arc<Checks>,
}

impl Users {
    pub(super) fn new(hashes: BTreeMap<String, String>, checks: Arc<Checks>) -> Self {
        let highest = hashes.values().map(|hash| cost(hash)).max();
        Self {
            hashes,
            cost: highest.unwrap_or(USUAL_COST),
            checks,
        }
    }

    /// Whether a client with this header may make requests (`Authorization: Basic`, RFC 7617).
    pub(super) async fn permit(&self, said: Option<&HeaderValue>, source: Source) -> Verdict {
        let Some((user, password)) = said.and_then(credentials) else {
            return Verdict::Refused;
        };
        let hash = self.hashes.get(&user).cloned();
        let is_known = hash.is_some();
        let hash = hash.unwrap_or_else(|| nobodys(self.cost));
        let mark = self.checks.mark(&user, &hash, &password);
        if self.checks.known().contains(&mark) {
            return Verdict::Permitted;
        }
        let Some(place) = Place::take(&self.checks, source) else {
            return Verdict::Busy;
        };
        let Ok(turn) = Arc::clone(&self.checks.turn).acquire_owned().await else {
            return Verdict::Refused;
        };
        let highest = self.cost;
        // Place and turn belong to the check: a client that disconnects meanwhile does not make
        // space for another one.
        let checked = tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            let is_right = is_right(&password, &hash, highest) && is_known;
            if !is_right {
                thread::sleep(rest(began.elapsed()));
            }
            drop((turn, place));
            is_right
        });
        match checked.await {
            Ok(true) => {
                self.checks.remember(mark);
                Verdict::Permitted
            }
            _ => Verdict::Refused,
        }
    }
}

fn rest(took: Duration) -> Duration {
    took * REST
}

/// Whether a password matches a hash. For a wrong one it takes as long as with the highest cost, so
/// that hashes of different costs do not reveal which names exist.
fn is_right(password: &[u8], hash: &str, highest: u32) -> bool {
    const ANY_SALT: [u8; 16] = [0; 16];
    if bcrypt::verify(password, hash).unwrap_or(false) {
        return true;
    }
    for cost in costs_up_to(cost(hash), highest) {
        // The result does not matter.
        let _ = bcrypt::hash_with_salt(password, cost, ANY_SALT);
    }
    false
}

/// The costs whose hashes, together with one of this cost, take as long as one of the highest: each
/// takes twice as long as the one below.
fn costs_up_to(cost: u32, highest: u32) -> Range<u32> {
    cost..highest
}

/// User and password.
fn credentials(header: &HeaderValue) -> Option<(String, Vec<u8>)> {
    let (scheme, rest) = header.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let both = STANDARD.decode(rest.trim()).ok()?;
    let colon = both.iter().position(|byte| *byte == b':')?;
    let user = String::from_utf8(both[..colon].to_vec()).ok()?;
    Some((user, both[colon + 1..].to_vec()))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::runtime::{Builder, Runtime};
    use tokio::task::JoinHandle;

    use super::*;

    fn runtime() -> Runtime {
        let mut builder = Builder::new_current_thread();
        builder.enable_all().build().expect("a runtime")
    }

    fn source(number: u32) -> Source {
        Source::of(Ipv4Addr::from_bits(number + 1).into())
    }

    fn basic(both: &str) -> HeaderValue {
        let header = format!("Basic {}", STANDARD.encode(both));
        HeaderValue::from_str(&header).expect("a header")
    }

    /// One user, ann, with this password.
    fn ann(password: &str) -> BTreeMap<String, String> {
        let hash = bcrypt::hash(password, 4).expect("hashed");
        BTreeMap::from([("ann".into(), hash)])
    }

    fn users(checks: &Arc<Checks>) -> Arc<Users> {
        Arc::new(Users::new(ann("open: sesame"), Arc::clone(checks)))
    }

    #[test]
    fn a_password_is_checked_and_remembered_and_a_wrong_one_is_neither() {
        let checks = Arc::new(Checks::new());
        let users = users(&checks);
        let runtime = runtime();
        let permit = |header: Option<&HeaderValue>| {
            let permitted = runtime.block_on(users.permit(header, source(0)));
            permitted == Verdict::Permitted
        };
        let ask = |both: &str| permit(Some(&basic(both)));
        let other = |scheme: &str| {
            let header = format!("{scheme} {}", STANDARD.encode("ann:open: sesame"));
            permit(Some(&HeaderValue::from_str(&header).expect("a header")))
        };
        assert!(!ask("ann:wrong"));
        assert!(!ask("ann:"));
        assert!(!ask("bob:open: sesame"));
        assert!(!other("Bearer"));
        assert!(!ask("ann"));
        assert!(checks.known().is_empty());
        assert!(other("basic"));
        assert_eq!(checks.known().len(), 1);
        assert!(ask("ann:open: sesame"));
        assert!(!ask("ann:open: sesame "));
        assert!(!permit(None));
        assert!(checks.under_way().is_empty());
    }

    /// As many wrong passwords as may wait, each from its own source, none of them checked yet.
    fn crowd(runtime: &Runtime, users: &Arc<Users>) -> Vec<JoinHandle<Verdict>> {
        let asking = (0..MAX_CHECKS as u32).map(|number| {
            let users = Arc::clone(users);
            runtime.spawn(async move {
                let said = basic(&format!("ann:wrong {number}"));
                users.permit(Some(&said), source(number)).await
            })
        });
        let asking = asking.collect();
        runtime.block_on(async {
            while users.checks.under_way().len() < MAX_CHECKS {
                tokio::task::yield_now().await;
            }
        });
        asking
    }

    #[test]
    fn behind_as_many_passwords_as_may_wait_one_that_was_right_is_permitted_and_others_are_to_come_again()
     {
        let checks = Arc::new(Checks::new());
        let (users, runtime) = (users(&checks), runtime());
        let right = basic("ann:open: sesame");
        let ask = |said: &HeaderValue| runtime.block_on(users.permit(Some(said), source(99)));
        assert_eq!(ask(&right), Verdict::Permitted);
        // While somebody has the turn, none is checked.
        let turn = Arc::clone(&checks.turn).try_acquire_owned().expect("free");
        let asking = crowd(&runtime, &users);
        assert_eq!(ask(&right), Verdict::Permitted);
        assert_eq!(ask(&basic("ann:guessed")), Verdict::Busy);
        assert_eq!(ask(&basic("nobody:guessed")), Verdict::Busy);
        assert_eq!(checks.under_way().len(), MAX_CHECKS);
        drop(turn);
        for one in asking {
            assert_eq!(runtime.block_on(one).expect("it ends"), Verdict::Refused);
        }
        assert_eq!(ask(&basic("ann:guessed")), Verdict::Refused);
        assert!(checks.under_way().is_empty());
    }

    #[test]
    fn one_source_does_not_take_all_places_and_who_goes_away_leaves_his() {
        let checks = Arc::new(Checks::new());
        let places = [0, 0].map(|number| Place::take(&checks, source(number)));
        assert!(places.iter().all(Option::is_some));
        assert!(Place::take(&checks, source(0)).is_none());
        let other = Place::take(&checks, source(1));
        assert!(other.is_some());
        drop(places);
        assert_eq!(*checks.under_way(), [source(1)]);
        // A client that waits and disconnects.
        let (users, runtime) = (users(&checks), runtime());
        let turn = Arc::clone(&checks.turn).try_acquire_owned().expect("free");
        drop(other);
        for waiting in crowd(&runtime, &users) {
            waiting.abort();
            let _ = runtime.block_on(waiting);
        }
        assert!(checks.under_way().is_empty());
        drop(turn);
    }

    #[test]
    fn what_was_right_stays_so_while_the_file_is_read_anew_until_its_hash_changes() {
        let checks = Arc::new(Checks::new());
        let runtime = runtime();
        let hashes = ann("open: sesame");
        let ask = |hashes: &BTreeMap<String, String>| {
            let users = Users::new(hashes.clone(), Arc::clone(&checks));
            let said = basic("ann:open: sesame");
            runtime.block_on(users.permit(Some(&said), source(0)))
        };
        assert_eq!(ask(&hashes), Verdict::Permitted);
        let crowd = crowd(&runtime, &users(&checks));
        assert_eq!(ask(&hashes), Verdict::Permitted);
        for one in crowd {
            assert_eq!(runtime.block_on(one).expect("it ends"), Verdict::Refused);
        }
        assert_eq!(ask(&ann("another")), Verdict::Refused);
        assert_eq!(ask(&BTreeMap::new()), Verdict::Refused);
    }

    #[test]
    fn a_wrong_password_takes_as_long_whoever_it_is_for() {
        // Rounds of bcrypt, not time: others run here, too.
        let rounds = |cost: u32| 1_u64 << cost;
        for (cost, highest) in [(4, 4), (4, 14), (9, 10), (12, 14)] {
            let further: u64 = costs_up_to(cost, highest).map(rounds).sum();
            assert_eq!(rounds(cost) + further, rounds(highest));
        }
        let hash = |cost| bcrypt::hash("right", cost).expect("hashed");
        let hashes = BTreeMap::from([("ann".into(), hash(4)), ("bob".into(), hash(6))]);
        let users = Users::new(hashes, Arc::new(Checks::new()));
        assert_eq!(cost(&nobodys(users.cost)), 6);
        assert!(is_right(b"right", &users.hashes["ann"], users.cost));
        assert!(!is_right(b"wrong", &users.hashes["ann"], users.cost));
    }

    #[test]
    fn a_bounded_number_is_remembered() {
        let checks = Checks::new();
        for number in 0..3 * MAX_KNOWN as u64 {
            checks.remember((number, number));
            assert!(checks.known().len() <= MAX_KNOWN);
        }
    }
}
