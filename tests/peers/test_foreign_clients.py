"""dcmjs-dimse and Orthanc verify, store and find: they share no code with us or with each other."""

from pathlib import Path

from tests.cloud.deadline import eventually
from tests.peers import dcmjs_dimse, orthanc
from tests.peers.conftest import Clinic
from tests.peers.instances import PATIENT_ID, study


def test_dcmjs_dimse_verifies_stores_and_finds(clinic: Clinic, tmp_path: Path) -> None:
    instances = study(tmp_path, 3)
    uid = instances[0].study_instance_uid
    stored = dcmjs_dimse.run(
        clinic.node,
        {"type": "echo"},
        *({"type": "store", "file": str(instance.path)} for instance in instances),
    )
    for request in range(4):
        [response] = dcmjs_dimse.responses(stored, request)
        assert response["status"] == 0
    keys = {
        "StudyInstanceUID": uid,
        "PatientID": "",
        "NumberOfStudyRelatedInstances": "",
    }

    def found() -> list[dcmjs_dimse.Event]:
        return dcmjs_dimse.responses(
            dcmjs_dimse.run(clinic.node, {"type": "find", "level": "STUDY", "keys": keys})
        )

    match, final = eventually(
        found,
        until=lambda answers: (
            len(answers) == 2 and answers[0]["data"]["NumberOfStudyRelatedInstances"] in (3, "3")
        ),
    )
    assert match["data"]["PatientID"] == PATIENT_ID
    assert final["status"] == 0


def test_orthanc_verifies_stores_and_finds(clinic: Clinic, tmp_path: Path) -> None:
    instances = study(tmp_path, 3)
    uid = instances[0].study_instance_uid
    with orthanc.running_orthanc(tmp_path / "orthanc", clinic.node) as peer:
        peer.post(f"/modalities/{orthanc.NODE}/echo", {})
        names = [peer.upload(instance.path) for instance in instances]
        sent = peer.post(
            f"/modalities/{orthanc.NODE}/store", {"Resources": names, "Synchronous": True}
        )
        assert (sent["InstancesCount"], sent["FailedInstancesCount"]) == (3, 0)

        def found() -> list[dict[str, str]]:
            query = peer.post(
                f"/modalities/{orthanc.NODE}/query",
                {
                    "Level": "Study",
                    "Query": {"StudyInstanceUID": uid, "NumberOfStudyRelatedInstances": ""},
                },
            )
            return [
                peer.get(f"/queries/{query['ID']}/answers/{number}/content?simplify")
                for number in peer.get(f"/queries/{query['ID']}/answers")
            ]

        [match] = eventually(
            found,
            until=lambda answers: (
                bool(answers) and answers[0].get("NumberOfStudyRelatedInstances") == "3"
            ),
        )
        assert match["StudyInstanceUID"] == uid
