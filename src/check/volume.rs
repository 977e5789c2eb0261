//! The volume's page and its copy.

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::file::read_page;
use super::finding::Finding;
use super::page::{self, Candidate, PageBytes};
use super::repair::Remedy;
use super::report::Place;
use super::scene::Scene;
use crate::format::head::Kind;
use crate::format::{FormatError, Id, VOLUME_COPY_NAME, VOLUME_NAME};
use crate::fs::disk::Disk;

/// A volume page as it lies there; `None` if it is missing.
pub(super) type Found = Option<Result<(PageBytes, Vec<Candidate>), FormatError>>;

/// Both pages.
pub(super) struct Pages {
    found: [(Place, Found); 2],
    unreadable: Vec<(Place, Errno)>,
}

/// Reads both pages as they are.
pub(super) fn read(disk: &Disk, root: impl std::os::fd::AsFd) -> Pages {
    let mut unreadable = Vec::new();
    let found = [VOLUME_NAME, VOLUME_COPY_NAME].map(|name| {
        let place = Place { backing: name.into(), path: None };
        let read = match disk.open(&root, name, OFlags::RDONLY | OFlags::NONBLOCK) {
            Err(Errno::NOENT) => None,
            Err(errno) => {
                unreadable.push((place.clone(), errno));
                Some(Err(FormatError::NotKmsfs))
            }
            Ok(file) => Some(match read_page(&file) {
                Ok(bytes) => page::candidates(&bytes, Kind::Volume).map(|found| (bytes, found)),
                Err(_) => Err(FormatError::NotKmsfs),
            }),
        };
        (place, read)
    });
    Pages { found, unreadable }
}

impl Pages {
    /// The volume's id, as the newest page has it that can be read.
    pub(super) fn id(&self) -> Option<Id> {
        self.newest().map(|candidate| candidate.page.head.object)
    }

    fn newest(&self) -> Option<&Candidate> {
        let candidates = self.found.iter().filter_map(|(_, found)| found.as_ref()?.as_ref().ok()?.1.first());
        candidates.max_by_key(|candidate| candidate.sequence())
    }

    /// Notes what is wrong with the pages. A page is what it ought to be if it is authentic or,
    /// without keys, has right checksums.
    pub(super) fn check(&self, scene: &Scene<'_>) {
        let authentic = |candidate: &Candidate| match scene.keyed {
            None => true,
            Some(keyed) => {
                candidate.page.head.object == keyed.volume.id
                    && candidate.page.slots().iter().all(|slot| {
                        slot.commitment == keyed.volume.keys.commitment
                            && candidate.page.open(slot, &keyed.volume.keys.header).is_ok()
                    })
            }
        };
        let good = |found: &Found| match found {
            Some(Ok((_, candidates))) => candidates.iter().find(|c| authentic(c)).map(Candidate::sequence),
            _ => None,
        };
        let newest = self.found.iter().filter_map(|(_, found)| good(found)).max();
        for (place, found) in &self.found {
            match found {
                None => scene.found(place, Finding::VolumePageMissing, Remedy::VolumePage),
                Some(Err(error)) => {
                    scene.found(place, Finding::VolumePageDamaged(*error), Remedy::VolumePage);
                }
                Some(Ok((bytes, candidates))) => match candidates.iter().find(|c| authentic(c)) {
                    None => {
                        let finding = Finding::VolumePageDamaged(FormatError::Forged);
                        scene.found(place, finding, Remedy::VolumePage);
                    }
                    Some(candidate) => {
                        for part in page::differences(bytes, &candidate.bytes) {
                            scene.found(place, Finding::PartDamaged(part), Remedy::VolumePage);
                        }
                        if Some(candidate.sequence()) < newest {
                            scene.found(place, Finding::VolumePageOld, Remedy::VolumePage);
                        }
                    }
                },
            }
        }
        for (place, errno) in &self.unreadable {
            scene.not_readable(place, &(*errno).into());
        }
        self.check_marks(scene);
    }

    /// Notes that no page is authentic.
    pub(super) fn note_forged(&self, scene: &Scene<'_>) {
        for (place, _) in self.found.iter().filter(|(_, found)| matches!(found, Some(Ok(_)))) {
            scene.found(place, Finding::VolumePageDamaged(FormatError::Forged), None);
        }
    }

    /// Whether the volume says that it was left in order. That is sealed.
    fn check_marks(&self, scene: &Scene<'_>) {
        let Some(keyed) = scene.keyed else { return };
        let place = Place { backing: VOLUME_NAME.into(), path: None };
        if keyed.volume.is_recovering() {
            scene.found(&place, Finding::NotClean, Remedy::Marks);
        } else if !keyed.volume.began_settled() {
            scene.found(&place, Finding::NotAllSettled, Remedy::Marks);
        }
    }
}
