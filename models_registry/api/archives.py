"""``/registry/exports`` and ``/registry/imports``: one version as a file that moves between installations."""

from __future__ import annotations

from collections.abc import Mapping
from tempfile import TemporaryFile
from typing import Any

from django.conf import settings
from django.http import FileResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.parsers import BaseParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from models_registry import archives, versions
from models_registry.api.queries import checked, principal_of
from models_registry.api.serializers import ImportedSerializer, ImportQuerySerializer
from ops.contracts.principal import Scope
from ops.contracts.problems import TooLarge

TAGS = ["registry"]
_COPY_BYTES = 1024 * 1024


class ArchiveParser(BaseParser):
    """Leaves the body where it is: it may be gigabytes."""

    media_type = "application/zip"

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Mapping[str, Any] | None = None) -> Any:
        return stream


class ExportView(APIView):
    required_scopes = {"GET": Scope.REGISTRY_READ}

    @extend_schema(
        operation_id="export_model_version",
        tags=TAGS,
        responses={(200, "application/zip"): OpenApiResponse(OpenApiTypes.BINARY, description="The archive.")},
    )
    def get(self, request: Request, label: str) -> FileResponse:
        """One version, `name@number`, with its files, figures and lineage."""
        version = versions.find_version(label)
        target = TemporaryFile()  # noqa: SIM115  (the response closes it)
        try:
            archives.export_version(version, target, by=principal_of(request))
        except BaseException:
            target.close()
            raise
        target.seek(0)
        name = archives.file_name(version)
        return FileResponse(target, as_attachment=True, filename=name, content_type="application/zip")


class ImportView(APIView):
    required_scopes = {"POST": Scope.REGISTRY_WRITE}
    parser_classes = (ArchiveParser,)

    @extend_schema(
        operation_id="import_model_version",
        tags=TAGS,
        parameters=[ImportQuerySerializer],
        request={"application/zip": OpenApiTypes.BINARY},
        responses=ImportedSerializer,
    )
    def post(self, request: Request) -> Response:
        """Register the version in an archive; it becomes live nowhere. 422 when anything of it can't be trusted."""
        name = checked(ImportQuerySerializer, request).get("name")
        limit_bytes: int = settings.REGISTRY_ARTIFACT_MAX_BYTES
        body = request.data  # refuses other media types
        if not hasattr(body, "read"):
            raise archives.ArchiveError("The body is empty: send the archive that an export answered with.")
        with TemporaryFile() as received:
            size_bytes = 0
            while block := body.read(_COPY_BYTES):
                size_bytes += len(block)
                if size_bytes > limit_bytes:
                    raise TooLarge(f"The archive is larger than {limit_bytes} bytes (REGISTRY_ARTIFACT_MAX_BYTES).")
                received.write(block)
            received.seek(0)
            version, is_new = archives.import_version(received, by=principal_of(request), name=name)
        return Response(ImportedSerializer({"version": str(version), "is_new": is_new}).data)
