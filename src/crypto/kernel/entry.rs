//! What an instruction set becomes a kernel by: its detection, and the functions that enable it.
//!
//! Both are made of one list of features, so that nothing can be enabled that was not found.

/// Declares the proof that a CPU has an instruction set, and makes it a kernel.
///
/// After the name come the macro that detects a feature and the features. What is named after `and` is
/// detected too; the compiler enables it with one of the others.
macro_rules! kernel {
    (
        $(#[$documentation:meta])*
        $isa:ident, $name:literal, $is_detected:ident: $($feature:tt),+ $(; and $($included:tt),+)?
    ) => {
        $(#[$documentation])*
        #[derive(Debug, Clone, Copy)]
        pub(super) struct $isa(());

        impl $isa {
            /// That proof, if the CPU has it all.
            pub(super) fn detect() -> Option<Self> {
                let has_all = $($is_detected!($feature))&&+ $($(&& $is_detected!($included))+)?;
                has_all.then_some(Self(()))
            }
        }

        const _: () = {
            use $crate::crypto::aead::{Open, OpenError, Seal};
            use $crate::crypto::kernel::{Kernel, batch, batch::Scratch, isa::Isa, keys::GROUP};
            use $crate::secret::KEY_LEN;

            #[target_feature($(enable = $feature),+)]
            fn seal(isa: $isa, scratch: &mut Scratch, key: &[u8; KEY_LEN], messages: &mut [Seal<'_>]) {
                batch::seal::<_, { GROUP / $isa::BLOCKS }>(isa, scratch, key, messages);
            }

            #[target_feature($(enable = $feature),+)]
            fn open(
                isa: $isa,
                scratch: &mut Scratch,
                key: &[u8; KEY_LEN],
                messages: &mut [Open<'_>],
            ) -> Result<(), OpenError> {
                batch::open::<_, { GROUP / $isa::BLOCKS }>(isa, scratch, key, messages)
            }

            impl Kernel for $isa {
                const NAME: &str = $name;

                fn seal(self, scratch: &mut Scratch, key: &[u8; KEY_LEN], messages: &mut [Seal<'_>]) {
                    // SAFETY: `self` proves that the CPU has the features: `detect` asked for each.
                    unsafe { seal(self, scratch, key, messages) }
                }

                fn open(
                    self,
                    scratch: &mut Scratch,
                    key: &[u8; KEY_LEN],
                    messages: &mut [Open<'_>],
                ) -> Result<(), OpenError> {
                    // SAFETY: `self` proves that the CPU has the features: `detect` asked for each.
                    unsafe { open(self, scratch, key, messages) }
                }
            }
        };
    };
}

pub(super) use kernel;
