//! Orders: what `moored apply` puts in force, and what `moored plan` shows of it before.
//!
//! ```text
//! Reading ──what is on disk now is read──▶ Settling ──the texts can be judged──▶ Storing ──on the disk──▶ in force, then a wait as for `sync`
//! ```
//!
//! - A plain order puts in force what is ready, each unit by itself, and goes on for those that are not settled until its time is over.
//! - One that is to be all or nothing, or of one plan, waits until all that it is about is settled, and then puts all of it in force in one
//!   round, or refuses with nothing changed.
//! - In no case is a set of files that are swapped together split (`catalogue::sets`).
//!
//! # Killed at any instant
//!
//! Without `--manual` the files on disk decide after a restart, as they would have without an order. Under `--manual` the last good texts in
//! the state-dir decide, so an order writes them *first*: all that it puts in force as one file (`Files::keep_set`), renamed into its place. Before that rename
//! everything is as before, for every unit; after it everything is in force, now or at the next start. Nothing is done before the disk says that it
//! is there. A disk that refuses it refuses the order. From the writing of the set until then, no text of its units is stored that is in force
//! still: it would come behind the set, and a crash would leave a half of it.
//!
//! The very first start under `--manual` is an order of nobody's for all that is on disk: killed half-way, the next start is the first one
//! again, or all is in force. A disk that refuses does not hold it back, since there is nothing to go back to. Nor is there for a unit that runs
//! and whose last good text is lost or not valid any more: a later start gives itself an order for these.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use super::catalogue::{InForce, Next, Scope};
use super::clock;
use super::narrate;
use super::planned::{Item, What};
use super::round::{Supervisor, VALIDATE};
use super::wait::Goal;
use super::waiters::{Known, Waiter, Waiting};
use crate::compact;
use crate::control::{ClientId, Reply, Response};
use crate::plan::{BootTime, Live, Now, WallTime};
use crate::store::{self, Key, Ticket};
use crate::unit::UnitName;

/// So long an order for all or nothing waits for texts to settle, if it does not say how long: meanwhile nothing else goes in force.
const SETTLING: Duration = Duration::from_secs(30);

/// So long a plan waits for looks at sources, which may be on a disk that does not answer; then it says so of the unit.
const LOOKS: Duration = Duration::from_secs(5);

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub(super) struct Terms {
    /// Of these units; empty: of all.
    pub units: Vec<UnitName>,
    /// Also the removals that the brake holds.
    pub confirm_removals: bool,
    /// All or nothing.
    pub atomic: bool,
    /// Only if this is still the plan.
    pub plan: Option<String>,
    /// Who asks.
    pub by: String,
}

enum Wish {
    Plan,
    Apply(Terms),
    /// A start under `--manual`: of these units, empty: of all.
    Begin(BTreeSet<UnitName>),
}

enum Stage {
    /// Of this token.
    Reading(u64),
    Settling,
    /// These, in force from then on.
    Storing(Vec<(UnitName, Next)>, WallTime),
}

/// A client's order, or the one that a first start gives itself.
pub(super) struct Order {
    reply: Option<Reply>,
    wish: Wish,
    stage: Stage,
    /// Of the whole.
    deadline: Option<BootTime>,
    /// Of what comes before anything is put in force.
    settled_by: Option<BootTime>,
    /// Units that were named and not known yet.
    strangers: Vec<UnitName>,
    /// All units that it turned out to be about.
    concerned: BTreeSet<UnitName>,
}

/// A set on its way to the disk; one at a time.
pub(super) struct Storing {
    ticket: Ticket,
    outcome: Option<Result<(), String>>,
}

impl Order {
    fn scope(&self) -> Scope {
        match &self.wish {
            Wish::Apply(terms) if !terms.units.is_empty() => Scope::Named(compact::set(terms.units.iter().cloned())),
            Wish::Begin(units) if !units.is_empty() => Scope::Named(units.clone()),
            Wish::Apply(_) | Wish::Plan | Wish::Begin(_) => Scope::All,
        }
    }

    fn is_of(&self, client: ClientId) -> bool {
        self.reply.as_ref().is_some_and(|reply| reply.id() == client)
    }

    fn is_atomic(&self) -> bool {
        matches!(&self.wish, Wish::Apply(terms) if terms.atomic)
    }

    /// Tells it, and ends.
    fn answer(self, code: u8, lines: Vec<String>) -> Option<Order> {
        if let Some(reply) = self.reply {
            reply.send(&Response::Synced { code, lines });
            reply.close();
        }
        None
    }

    fn refuse(self, message: String) -> Option<Order> {
        if let Some(reply) = self.reply {
            reply.send(&Response::Error { message, code: 1 });
            reply.close();
        }
        None
    }

    fn say(&self, lines: Vec<String>) {
        if let Some(reply) = self.reply.as_ref().filter(|_| !lines.is_empty()) {
            reply.send(&Response::Done { lines });
        }
    }
}

impl Supervisor {
    /// Under `--manual`: from now on nothing goes in force without an order. Once, everything on disk does that has nothing to go back to:
    /// at the `first` start all, later what runs and has no last good text.
    pub fn wait_for_orders(&mut self, first: bool) {
        self.catalogue.wait_for_orders();
        let is_up = |live: &Live| live.is_up();
        let lost =
            self.observed.units.iter().filter(|(unit, seen)| {
                seen.live.as_ref().is_some_and(is_up) && self.catalogue.in_force(unit).is_none()
            });
        let units = compact::set(lost.map(|(unit, _)| unit.clone()).filter(|_| !first));
        if first || !units.is_empty() {
            self.order(None, Wish::Begin(units), Stage::Settling, Vec::new(), None);
        }
    }

    pub(super) fn apply_order(
        &mut self,
        terms: Terms,
        strangers: Vec<UnitName>,
        timeout: Option<Duration>,
        reply: Reply,
    ) {
        let token = self.token();
        if !self.files.sync(token, terms.units.iter()) {
            tracing::warn!("too many wait for the directories to be read: one of them will time out");
        }
        let deadline = timeout.map(|timeout| clock::now().boot.after(timeout));
        self.order(Some(reply), Wish::Apply(terms), Stage::Reading(token), strangers, deadline);
    }

    /// Without `--manual` what is on disk is read when it is settled, and not sooner: a question does not make removals count.
    pub(super) fn plan_order(&mut self, reply: Reply) -> Result<(), String> {
        if !self.settings.manual {
            return self.show_plan(reply);
        }
        let token = self.token();
        if !self.files.sync(token, []) {
            return Err("too many wait for the directories to be read: ask again".to_owned());
        }
        let deadline = Some(clock::now().boot.after(LOOKS));
        self.order(Some(reply), Wish::Plan, Stage::Reading(token), Vec::new(), deadline);
        Ok(())
    }

    fn order(
        &mut self,
        reply: Option<Reply>,
        wish: Wish,
        stage: Stage,
        strangers: Vec<UnitName>,
        deadline: Option<BootTime>,
    ) {
        let is_atomic = matches!(&wish, Wish::Apply(terms) if terms.atomic);
        if is_atomic {
            self.catalogue.withhold(true);
        }
        let settled_by = deadline.or_else(|| is_atomic.then(|| clock::now().boot.after(SETTLING)));
        self.orders.push(Order { reply, wish, stage, deadline, settled_by, strangers, concerned: BTreeSet::new() });
    }

    /// The very first start is not over.
    pub(super) fn is_beginning(&self) -> bool {
        self.orders.iter().any(|order| matches!(order.wish, Wish::Begin(_)))
    }

    /// What was on disk at the time of the order is read.
    pub(super) fn orders_read(&mut self, read: u64) {
        for order in &mut self.orders {
            if matches!(order.stage, Stage::Reading(token) if token == read) {
                order.stage = Stage::Settling;
            }
        }
    }

    /// An order whose client went is dropped; not one that is on its way to the disk, where it may count already.
    pub(super) fn drop_orders_of(&mut self, client: ClientId) {
        self.orders.retain(|order| !order.is_of(client) || matches!(order.stage, Stage::Storing(..)));
    }

    /// Whether a set with this unit is on its way to the disk.
    pub(super) fn is_being_stored(&self, name: &UnitName) -> bool {
        let has = |ready: &[(UnitName, Next)]| ready.iter().any(|(unit, _)| unit == name);
        self.orders.iter().any(|order| matches!(&order.stage, Stage::Storing(ready, _) if has(ready)))
    }

    /// What the writer of the state-dir says of the set that it was given.
    pub(super) fn order_stored(&mut self, fact: &store::Fact) {
        let (key, ticket, outcome) = match fact {
            store::Fact::Persisted { key, ticket } => (key, ticket, Ok(())),
            store::Fact::Failed { key, ticket, error } => (key, ticket, Err(error.to_string())),
        };
        if let Some(storing) = self.storing.as_mut().filter(|storing| *key == Key::Set && storing.ticket <= *ticket) {
            storing.outcome = Some(outcome);
        }
    }

    /// Puts in force what orders ask for, and what needs none. Says when the patience of the next order ends.
    pub(super) fn put_in_force(&mut self) -> Option<BootTime> {
        let now = clock::now();
        for order in std::mem::take(&mut self.orders) {
            let left = self.advance(order, now);
            self.orders.extend(left);
        }
        // All or nothing is decided when all is known: until then nothing goes ahead.
        let withheld = self.orders.iter().any(Order::is_atomic);
        self.catalogue.withhold(withheld);
        if !withheld {
            self.catalogue.release(VALIDATE, now.wall);
        }
        // One whose time is over and that is still here waits for the disk, whose word wakes the loop.
        self.orders.iter().filter_map(|order| order.settled_by).filter(|settled_by| *settled_by > now.boot).min()
    }

    /// `None`: it is over.
    fn advance(&mut self, mut order: Order, now: Now) -> Option<Order> {
        let expired = order.settled_by.is_some_and(|settled_by| settled_by <= now.boot);
        match std::mem::replace(&mut order.stage, Stage::Settling) {
            Stage::Reading(_) if expired && order.is_atomic() => {
                self.refuse_atomic(order, vec!["the directories are still being read".to_owned()])
            }
            Stage::Reading(_) if expired => order.answer(3, vec!["the directories are still being read".to_owned()]),
            Stage::Reading(token) => Some(Order { stage: Stage::Reading(token), ..order }),
            Stage::Settling => self.settle_order(order, expired, now),
            Stage::Storing(ready, since) => match self.storing.take_if(|storing| storing.outcome.is_some()) {
                Some(Storing { outcome: Some(Err(why)), .. }) => self.not_stored(order, ready, &why, now),
                Some(_) => {
                    self.in_force(&order, ready, since);
                    self.after_commit(order, expired)
                }
                None => Some(Order { stage: Stage::Storing(ready, since), ..order }),
            },
        }
    }

    fn settle_order(&mut self, mut order: Order, expired: bool, now: Now) -> Option<Order> {
        if let Some(stranger) = order.strangers.iter().find(|unit| !self.is_known(unit)) {
            let message = self.unknown(stranger.as_str());
            return order.refuse(message);
        }
        let scope = order.scope();
        let unsettled: Vec<UnitName> = self.catalogue.unsettled(&scope).cloned().collect();
        let terms = match &order.wish {
            Wish::Plan if self.catalogue.is_being_read() && !expired => return Some(order),
            Wish::Plan => {
                let reply = order.reply?;
                if let Err(message) = self.show_plan(reply.clone()) {
                    reply.send(&Response::Error { message, code: 1 });
                    reply.close();
                }
                return None;
            }
            Wish::Begin(_) => Terms::default(),
            Wish::Apply(terms) => terms.clone(),
        };
        let is_whole = terms.atomic || terms.plan.is_some();
        if is_whole && !unsettled.is_empty() {
            return match (expired, terms.atomic) {
                (false, _) => Some(order),
                (true, true) => self.refuse_atomic(order, self.why_unsettled(&unsettled)),
                (true, false) => order.answer(3, self.why_unsettled(&unsettled)),
            };
        }
        let hash = self.catalogue.plan_hash().to_string();
        if let Some(plan) = terms.plan.filter(|plan| *plan != hash) {
            let cure = "nothing was put in force; `moored plan` shows what would be now";
            return order
                .refuse(format!("the plan is not {plan} any more, as what is on disk or in force changed: {cure}"));
        }
        if terms.atomic {
            let wrong = self.wrong_in(&scope);
            if !wrong.is_empty() {
                return self.refuse_atomic(order, wrong);
            }
        }
        if let Wish::Apply(terms) = &mut order.wish
            && std::mem::take(&mut terms.confirm_removals)
        {
            let terms = terms.clone();
            order.concerned.extend(self.confirm_removals(&order, &terms));
        }
        self.commit(order, expired, now)
    }

    /// Puts in force what is ready: at once, or when it is on the disk.
    fn commit(&mut self, mut order: Order, expired: bool, now: Now) -> Option<Order> {
        let scope = order.scope();
        let ready = self.catalogue.ready(&scope);
        let all = self.catalogue.names().filter(|name| scope.holds(name)).cloned();
        order.concerned.extend(all.chain(ready.iter().map(|(name, _)| name.clone())));
        if ready.is_empty() {
            return self.after_commit(order, expired);
        }
        if !self.settings.manual {
            self.in_force(&order, ready, now.wall);
            return self.after_commit(order, expired);
        }
        // One set at a time is on its way; this order asks again when that one is there.
        if self.storing.is_none() {
            let earlier = |unit: &UnitName, next: &InForce| {
                let standing = self.catalogue.standing(unit, &self.desired, &self.observed);
                self.catalogue.earlier_of(unit, next, standing)
            };
            let ticket = self.files.keep_set(&ready, earlier, now.wall);
            self.storing = Some(Storing { ticket, outcome: None });
            order.stage = Stage::Storing(ready, now.wall);
        }
        Some(order)
    }

    fn not_stored(&mut self, order: Order, ready: Vec<(UnitName, Next)>, why: &str, now: Now) -> Option<Order> {
        self.files.withdraw_set();
        if order.reply.is_none() {
            self.in_force(&order, ready, now.wall);
            return None;
        }
        ready.iter().for_each(|(name, _)| self.store_text(name));
        order.refuse(format!("nothing was put in force, as a restart would not know of it: {why}"))
    }

    fn in_force(&mut self, order: &Order, ready: Vec<(UnitName, Next)>, since: WallTime) {
        let line = |(unit, next): &(UnitName, Next)| match next {
            Next::Text(_) => format!("{unit}: put in force"),
            Next::Removed => format!("{unit}: removed"),
            Next::Masked => format!("{unit}: masked"),
        };
        if self.settings.manual || order.is_atomic() {
            order.say(ready.iter().map(line).collect());
        }
        if let Wish::Apply(terms) = &order.wish {
            self.ordered_by.extend(ready.iter().map(|(unit, _)| (unit.clone(), terms.by.clone())));
        }
        self.catalogue.put_in_force(ready, VALIDATE, since);
    }

    /// What was ready is in force. What is not settled yet is waited for, and then what is in force is to run.
    fn after_commit(&mut self, order: Order, expired: bool) -> Option<Order> {
        let scope = order.scope();
        let unsettled: Vec<UnitName> = self.catalogue.unsettled(&scope).cloned().collect();
        let is_plain = matches!(&order.wish, Wish::Apply(terms) if !terms.atomic && terms.plan.is_none());
        match (is_plain && !unsettled.is_empty(), expired) {
            (true, false) => Some(Order { stage: Stage::Settling, ..order }),
            (true, true) => order.answer(3, self.why_unsettled(&unsettled)),
            (false, _) => {
                let goals = order.concerned.into_iter().map(|unit| (unit, Goal::Converged)).collect();
                let waiter = |reply| Waiter::new(reply, Waiting::Goals(goals), order.deadline);
                self.waiters.extend(order.reply.map(waiter));
                None
            }
        }
    }

    fn refuse_atomic(&mut self, order: Order, mut lines: Vec<String>) -> Option<Order> {
        // Under --manual all waits for an order in any case.
        if !self.settings.manual {
            self.catalogue.leave_behind(&order.scope());
        }
        lines.push("nothing was put in force".to_owned());
        order.answer(1, lines)
    }

    /// Why not all that these units are to be can be in force.
    fn wrong_in(&self, scope: &Scope) -> Vec<String> {
        let names = || self.catalogue.names().filter(|name| scope.holds(name));
        let templates = matches!(scope, Scope::All).then(|| self.catalogue.template_errors());
        let of_units = names().flat_map(|name| self.catalogue.errors(name));
        let mut seen = BTreeSet::new();
        let errors = templates.into_iter().flatten().chain(of_units).filter(|line| seen.insert(*line)).cloned();
        let errors = errors.collect::<Vec<_>>().into_iter();
        let held = names().filter(|name| self.catalogue.errors(name).is_empty());
        let held = held.filter_map(|name| Some(format!("{name}: {}", self.catalogue.held_by_set(name)?)));
        errors.chain(held).collect()
    }

    fn why_unsettled(&self, units: &[UnitName]) -> Vec<String> {
        let line = |unit: &UnitName| format!("{unit}: {}", self.catalogue.drift(unit).unwrap_or_default());
        units.iter().map(line).collect()
    }

    fn confirm_removals(&mut self, order: &Order, terms: &Terms) -> BTreeSet<UnitName> {
        let gone = self.catalogue.confirm_removals(&terms.units, VALIDATE, clock::now().wall);
        order.say(match gone.is_empty() {
            true => vec!["no removal waits to be confirmed".to_owned()],
            false => gone.iter().map(|unit| format!("{unit}: removal confirmed")).collect(),
        });
        gone.iter().for_each(|unit| self.tell(narrate::confirmed(unit, &terms.by)));
        gone
    }

    /// What is on disk and not in force, how it would come, and what it would do.
    fn show_plan(&self, reply: Reply) -> Result<(), String> {
        let items: Vec<Item> = self.catalogue.names().filter_map(|name| self.planned(name)).collect();
        let errors = self.catalogue.errors_of(self.catalogue.names());
        self.answer_plan(reply, items, errors, Some(self.catalogue.plan_hash().to_string()))
    }

    fn planned(&self, name: &UnitName) -> Option<Item> {
        let good = self.catalogue.in_force(name);
        let old = good.map(|good| (good.unit.named(name), good.facts.clone()));
        let next = self.catalogue.next(name).filter(|_| self.catalogue.held_by_set(name).is_none());
        let what = match next {
            _ if !self.catalogue.errors(name).is_empty() => What::Invalid,
            Some(Next::Text(good)) => What::Text(good.unit.clone(), good.facts.clone()),
            Some(Next::Removed) => What::Gone(self.catalogue.gone_words(name)),
            Some(Next::Masked) => What::Gone("it is masked".to_owned()),
            None => What::Waits(self.catalogue.drift(name)?),
        };
        let listed_by = self.catalogue.listed_by(name).map(Path::to_owned);
        Some(Item { unit: name.clone(), old, what, listed_by })
    }

    /// Who was named, and which of these nobody knows yet: their files may not be read yet.
    pub(super) fn named(&self, typed: &[String]) -> Result<Vec<(UnitName, Known)>, String> {
        let named = |typed: &String| {
            let name = UnitName::new(typed).map_err(|error| error.to_string())?;
            let known = if self.is_known(&name) { Known::Yes } else { Known::No };
            Ok((name, known))
        };
        typed.iter().map(named).collect()
    }
}
