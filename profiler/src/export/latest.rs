//! The latest figures of a view, each declared once: `attach` prints them as a line, explains them
//! in its help, and writes them as `fragscope.interval/1`.

use profiler_core::activity::{Activity, ProbeCost};
use profiler_core::columns::Column;
use profiler_core::metrics::MetricId;
use profiler_core::units::{Unit, time_of_day};
use profiler_core::view::{ActivitySource, Point, View};

use super::names::{gaps, latest};

/// A view with the kernel's latest count.
pub(super) struct Latest<'a> {
    pub(super) view: &'a View,
    pub(super) now: Point,
}

impl<'a> Latest<'a> {
    pub(super) fn of(view: &'a View) -> Self {
        let now = latest(view);
        Self { view, now }
    }

    fn activity(&self) -> Option<&Activity> {
        self.view.activity.as_deref()
    }

    fn amount(&self, id: MetricId) -> Option<u64> {
        self.view.report.amount(id)
    }

    /// When the count was taken.
    const TIME: Column<Self> = Column::<Self>::of("time", Unit::Nanoseconds, |of| of.now.time_ns)
        .titled("time UTC", 8, "")
        .written(|of| time_of_day(of.now.time_ns));
    const RSS: Column<Self> = Column::<Self>::of("rss_bytes", Unit::Bytes, |of| of.now.rss_bytes)
        .titled("rss", 10, "the kernel's count at that time");
    const SWAP: Column<Self> =
        Column::<Self>::of("swap_bytes", Unit::Bytes, |of| of.now.swap_bytes).titled(
            "swap",
            10,
            Self::RSS.help,
        );
    const WALKED: Column<Self> = Column::<Self>::of("walked_at", Unit::Nanoseconds, |of| {
        of.view.report.taken_at_ns
    })
    .titled(
        "walked",
        7,
        "how long ago the heap was walked, which gave the next four columns",
    )
    .written(|of| {
        let ago_ns = of.now.time_ns.saturating_sub(of.view.report.taken_at_ns);
        format!("{} s", ago_ns / 1_000_000_000)
    });
    const ASKED_FOR: Column<Self> =
        Column::maybe("live_bytes", Unit::Bytes, |of| of.now.live_bytes);
    const LIVE: Column<Self> = Column::<Self>::maybe("live_resident_bytes", Unit::Bytes, |of| {
        of.now.live_resident_bytes
    })
    .titled(
        "live",
        10,
        "bytes of blocks in use that were in memory at the last walk, in all heaps",
    );
    const UTILISATION: Column<Self> = Column::<Self>::fraction(
        MetricId::Utilisation.key(),
        MetricId::Utilisation.unit(),
        |of| of.view.report.ratio(MetricId::Utilisation),
    )
    .titled("util", 6, "live bytes per resident heap byte");
    const PINNED: Column<Self> = Column::<Self>::maybe(
        MetricId::PinnedFreeBytes.key(),
        MetricId::PinnedFreeBytes.unit(),
        |of| of.amount(MetricId::PinnedFreeBytes),
    )
    .titled(
        "pinned",
        10,
        "free bytes on pages that live blocks keep resident",
    );
    const TRIM: Column<Self> = Column::<Self>::maybe(
        MetricId::TrimReturnableBytes.key(),
        MetricId::TrimReturnableBytes.unit(),
        |of| of.amount(MetricId::TrimReturnableBytes),
    )
    .titled(
        "trim",
        10,
        "what a trim or purge would return (glibc: malloc_trim(0))",
    );
    const FRAGMENTATION: Column<Self> = Column::maybe(
        MetricId::FragmentationBytes.key(),
        MetricId::FragmentationBytes.unit(),
        |of| of.amount(MetricId::FragmentationBytes),
    );
    const ALLOC_RATE: Column<Self> =
        Column::<Self>::fraction(Activity::ALLOC_RATE.key, Activity::ALLOC_RATE.unit, |of| {
            let activity = of.activity()?;
            activity.while_probed(activity.alloc_rate)
        })
        .titled(
            "malloc/s",
            8,
            "allocations a second, as sampled by the probes",
        );
    const P99_LIFETIME: Column<Self> = Column::<Self>::maybe(
        "lifetime_ns.p99",
        Unit::Nanoseconds,
        |of| {
            let lifetimes = Some(&of.activity()?.lifetimes).filter(|l| !l.is_empty())?;
            Some(lifetimes.value_at_quantile(0.99))
        },
    )
    .titled(
        "p99 life",
        9,
        "99th percentile of the lifetimes of blocks that were allocated and freed while sampled",
    );
    const PROBE_COST: Column<Self> =
        Column::<Self>::fraction("probe_share", ProbeCost::SHARE.unit, |of| {
            Some(of.view.activity_source().cost()?.share)
        })
        .titled(
            "cost",
            6,
            "share of one core that the probes took from the target in the last interval",
        );
    const EVENTS_LOST: Column<Self> =
        Column::<Self>::maybe(View::EVENTS_LOST.key, View::EVENTS_LOST.unit, |of| match of
            .view
            .activity_source()
        {
            ActivitySource::NotRequested | ActivitySource::Attaching | ActivitySource::NoProbes => {
                None
            }
            ActivitySource::Sampled(_) | ActivitySource::Recorded(_) => Some(of.view.events_lost()),
        })
        .titled(
            View::EVENTS_LOST.title,
            View::EVENTS_LOST.width,
            View::EVENTS_LOST.help,
        );
    /// The last column takes the remaining width.
    const STATUS: Column<Self> =
        Column::<Self>::of("gaps", Unit::Count, |of| gaps(of.view).count() as u64)
            .titled("status", 0, "`ok`, or why the figures are incomplete:")
            .written(|of| {
                let words: Vec<_> = gaps(of.view).map(|gap| gap.word).collect();
                match &*words {
                    [] => "ok".to_owned(),
                    some => some.join(","),
                }
            });

    /// The columns of a line, in order.
    pub(super) const SHOWN: [Column<Self>; 13] = [
        Self::TIME,
        Self::RSS,
        Self::SWAP,
        Self::WALKED,
        Self::LIVE,
        Self::UTILISATION,
        Self::PINNED,
        Self::TRIM,
        Self::ALLOC_RATE,
        Self::P99_LIFETIME,
        Self::PROBE_COST,
        Self::EVENTS_LOST,
        Self::STATUS,
    ];

    /// The kernel's count and the live bytes, in JSON.
    pub(super) const AT_TIME: [Column<Self>; 4] =
        [Self::RSS, Self::SWAP, Self::ASKED_FOR, Self::LIVE];

    /// Figures of the last walk, in JSON.
    pub(super) const OF_WALK: [Column<Self>; 4] = [
        Self::UTILISATION,
        Self::PINNED,
        Self::TRIM,
        Self::FRAGMENTATION,
    ];

    /// The cost of the probes, in JSON.
    pub(super) const OF_PROBES: [Column<Self>; 1] = [Self::PROBE_COST];
}
