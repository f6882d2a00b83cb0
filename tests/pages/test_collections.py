"""Making, renaming and deleting collections."""

from __future__ import annotations

import pytest
from django.test import Client

from rag.models import Collection, Document
from tests.pages.conftest import AddDocuments, SignIn
from tests.pages.html import assert_inert, one, parse, text_of

pytestmark = pytest.mark.django_db

NEW = {"title": "Travel notes", "slug": "", "text_configuration": "english"}


class TestCreate:
    def test_the_short_name_is_made_from_the_name(self, visitor: Client) -> None:
        response = visitor.post("/documents/collections/", NEW, follow=True)
        collection = Collection.objects.get()
        assert (collection.slug, collection.title, collection.split_identifiers) == (
            "travel-notes",
            "Travel notes",
            False,
        )
        assert "ready for documents" in text_of(response)
        assert one(parse(response), "tbody .name").text == "Travel notes"

    def test_every_setting_of_the_form_is_kept(self, visitor: Client) -> None:
        visitor.post(
            "/documents/collections/",
            {"title": "Code", "slug": "src", "text_configuration": "simple", "split_identifiers": "on"},
        )
        collection = Collection.objects.get()
        assert (collection.slug, collection.text_configuration, collection.split_identifiers) == ("src", "simple", True)

    @pytest.mark.parametrize(
        ("changes", "fault"),
        [
            ({"title": ""}, "This field is required"),
            ({"slug": "No Spaces"}, "lower-case letters"),
            ({"slug": "global"}, "means all collections"),
            ({"title": "???"}, "cannot be blank"),
            ({"text_configuration": "klingon"}, "not one of the available choices"),
        ],
    )
    def test_a_fault_stands_beside_its_field(self, visitor: Client, changes: dict[str, str], fault: str) -> None:
        response = visitor.post("/documents/collections/", NEW | changes)
        assert response.status_code == 400
        assert fault in one(parse(response), ".fault").text_content()
        assert not Collection.objects.exists()

    def test_a_short_name_that_is_taken_is_refused(self, visitor: Client) -> None:
        Collection.objects.create(slug="travel-notes")
        response = visitor.post("/documents/collections/", NEW)
        assert response.status_code == 400
        assert "already" in one(parse(response), ".fault").text_content()


class TestRename:
    def test_the_name_changes_and_the_short_name_stays(self, visitor: Client) -> None:
        Collection.objects.create(slug="notes", title="Notes")
        response = visitor.post(
            "/documents/collections/notes/", {"title": "Field notes", "description": "From outside."}, follow=True
        )
        collection = Collection.objects.get()
        assert (collection.slug, collection.title, collection.description) == ("notes", "Field notes", "From outside.")
        assert "Saved." in text_of(response)

    def test_nothing_of_a_name_becomes_html(self, visitor: Client) -> None:
        attack = "\"'><script>alert(1)</script>"
        Collection.objects.create(slug="notes", title=attack, description=attack)
        for address in ("/documents/collections/", "/documents/collections/notes/", "/search/", "/documents/"):
            assert_inert(visitor.get(address))

    def test_an_unknown_one_is_not_found(self, visitor: Client) -> None:
        assert visitor.get("/documents/collections/nowhere/").status_code == 404
        assert visitor.post("/documents/collections/nowhere/delete/").status_code == 404


class TestDelete:
    def test_it_is_deleted_once_its_short_name_is_typed(self, visitor: Client, add_documents: AddDocuments) -> None:
        add_documents({"tea.md": "Tea."}, collection="notes")
        response = visitor.post("/documents/collections/notes/delete/", {"confirm": "notes"}, follow=True)
        assert "was deleted" in text_of(response)
        assert not Collection.objects.exists()
        assert not Document.objects.exists()

    @pytest.mark.parametrize("typed", ["", "Notes", "note"])
    def test_anything_else_deletes_nothing(self, visitor: Client, typed: str) -> None:
        Collection.objects.create(slug="notes", title="Notes")
        response = visitor.post("/documents/collections/notes/delete/", {"confirm": typed})
        assert response.status_code == 400
        assert "nothing was deleted" in one(parse(response), "#confirm-fault").text
        assert Collection.objects.exists()

    def test_only_administrators_may(self, sign_in: SignIn) -> None:
        Collection.objects.create(slug="notes")
        client = sign_in("uma")
        assert not parse(client.get("/documents/collections/notes/")).cssselect(".danger-zone")
        assert client.post("/documents/collections/notes/delete/", {"confirm": "notes"}).status_code == 403
        assert Collection.objects.exists()
        administrator = sign_in("vic", is_staff=True)
        administrator.post("/documents/collections/notes/delete/", {"confirm": "notes"})
        assert not Collection.objects.exists()
