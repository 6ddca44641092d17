//! What is done wrong in a world, for the observer to see.

/// One fault. Each is in the world around the real code: a message that is withheld, a clock
/// that is wrong, an order that is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Rule 1: whoever is not connected is taken for confirmed.
    AbsenceConfirms,
    /// Rule 2: a refusal is forgotten, and what is acknowledged after it counts.
    RefusalForgotten,
    /// Rule 3: what is reported as stored is not on the disk yet.
    ReportedBeforeStored,
    /// Rule 4: what one inventory lacks is taken for gone.
    OneInventoryReleases,
    /// Rule 5: a replica signs without being registered.
    SignsUnregistered,
    /// Rule 6: a bundle is pushed before it is in the store.
    PushedUnfenced,
    /// Rule 7: the store goes back to an older copy.
    StoreGoesBack,
    /// Rule 8: gates open at once.
    NoDwell,
    /// Rule 9: certificates count as ended by a clock that is ahead.
    EndsByFastClock,
    /// Rule 10: who cannot say whether it has taken anything is taken for confirmed.
    SilenceConfirms,
    /// Rule 11: whoever turns round drops the new root, whatever stands under it.
    AbortDropsRoot,
    /// Rule 12: the root that leaves stays active.
    TwoActiveRoots,
    /// Rule 13: a root becomes active that has signed nothing, and cannot.
    ActiveUnproved,
    /// Rule 14: the nodes' own certificates are not waited for.
    OwnCertificatesForgotten,
    /// Rule 14: connections stay that were opened with a root that is gone.
    ConnectionsStay,
    /// Rule 15: who is denied certificates gets no bundles either.
    DeniedGetNoBundle,
    /// Rule 16: nobody is waited for, because the old root vouches for the new one.
    CrossOpensGate,
    /// Rule 17: a step is taken in a phase that is not known.
    UnknownPhaseStepped,
    /// Who was passed by force is not on the list.
    ForcedUnlisted,
    /// A bundle without a root.
    EmptyBundle,
    /// Rule 12: the gates of a distrust wait for everybody.
    DistrustWaits,
    /// Nothing is left of a root that must not be trusted any more, and it is taken for a new one.
    TombstoneForgotten,
}

impl Fault {
    /// All.
    pub const ALL: [Self; 22] = [
        Self::AbsenceConfirms,
        Self::RefusalForgotten,
        Self::ReportedBeforeStored,
        Self::OneInventoryReleases,
        Self::SignsUnregistered,
        Self::PushedUnfenced,
        Self::StoreGoesBack,
        Self::NoDwell,
        Self::EndsByFastClock,
        Self::SilenceConfirms,
        Self::AbortDropsRoot,
        Self::TwoActiveRoots,
        Self::ActiveUnproved,
        Self::OwnCertificatesForgotten,
        Self::ConnectionsStay,
        Self::DeniedGetNoBundle,
        Self::CrossOpensGate,
        Self::UnknownPhaseStepped,
        Self::ForcedUnlisted,
        Self::EmptyBundle,
        Self::DistrustWaits,
        Self::TombstoneForgotten,
    ];
}
