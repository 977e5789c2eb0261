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

        impl $crate::crypto::kernel::Kernel for $isa {
            const NAME: &str = $name;

            fn seal(
                self,
                scratch: &mut $crate::crypto::kernel::batch::Scratch,
                key: &[u8; $crate::secret::KEY_LEN],
                batch: &mut [$crate::crypto::aead::Seal<'_>],
            ) {
                use $crate::crypto::kernel::{batch, isa::Isa, keys::GROUP};

                #[target_feature($(enable = $feature),+)]
                fn seal(
                    isa: $isa,
                    scratch: &mut batch::Scratch,
                    key: &[u8; $crate::secret::KEY_LEN],
                    messages: &mut [$crate::crypto::aead::Seal<'_>],
                ) {
                    batch::seal::<_, { GROUP / $isa::BLOCKS }>(isa, scratch, key, messages);
                }

                // SAFETY: `self` proves that the CPU has the features: `detect` asked for each.
                unsafe { seal(self, scratch, key, batch) }
            }

            fn open(
                self,
                scratch: &mut $crate::crypto::kernel::batch::Scratch,
                key: &[u8; $crate::secret::KEY_LEN],
                batch: &mut [$crate::crypto::aead::Open<'_>],
            ) -> Result<(), $crate::crypto::aead::OpenError> {
                use $crate::crypto::kernel::{batch, isa::Isa, keys::GROUP};

                #[target_feature($(enable = $feature),+)]
                fn open(
                    isa: $isa,
                    scratch: &mut batch::Scratch,
                    key: &[u8; $crate::secret::KEY_LEN],
                    messages: &mut [$crate::crypto::aead::Open<'_>],
                ) -> Result<(), $crate::crypto::aead::OpenError> {
                    batch::open::<_, { GROUP / $isa::BLOCKS }>(isa, scratch, key, messages)
                }

                // SAFETY: `self` proves that the CPU has the features: `detect` asked for each.
                unsafe { open(self, scratch, key, batch) }
            }
        }
    };
}

pub(super) use kernel;
