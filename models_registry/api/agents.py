"""``/registry/agents``: who can be asked, and how each is set up."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from models_registry import agents
from models_registry.api.queries import principal_of
from models_registry.models import Agent, Selection
from ops.api.fields import (
    StrictBooleanField,
    StrictCharField,
    StrictFloatField,
    StrictIntegerField,
    StrictSerializer,
)
from ops.contracts.principal import Scope


class ModelChoiceSerializer(serializers.Serializer[Any]):
    model = serializers.CharField()
    is_ready = serializers.BooleanField()
    p95_ms = serializers.FloatField(allow_null=True, help_text="Of the last five minutes; null with too few calls.")
    calls = serializers.IntegerField()
    errors = serializers.IntegerField()  # type: ignore[assignment]  # a field, not the form's faults
    reason = serializers.CharField()


class AgentChangeSerializer(StrictSerializer):
    name = StrictCharField(max_length=100)
    description = StrictCharField(max_length=300, allow_blank=True)
    persona = StrictCharField(max_length=8000, allow_blank=True)
    model_order = serializers.ListField(
        child=StrictCharField(max_length=160),
        min_length=1,
        max_length=10,
        help_text="`extractive`, `ollama/NAME` or `openai/NAME`, in the order in which they are tried.",
    )
    selection = serializers.ChoiceField(choices=Selection.choices)
    latency_objective_ms = StrictIntegerField(min_value=1, allow_null=True, max_value=2_000_000_000)
    temperature = StrictFloatField(min_value=0, max_value=2)
    max_tokens = StrictIntegerField(min_value=1, max_value=8192)
    context_tokens = StrictIntegerField(min_value=512, max_value=1_000_000)
    collections = serializers.ListField(child=StrictCharField(max_length=64), max_length=100)
    top_k = StrictIntegerField(min_value=1, max_value=50, allow_null=True)
    abstains = StrictBooleanField()
    voice = StrictCharField(max_length=100, allow_blank=True)
    is_default = StrictBooleanField()
    is_enabled = StrictBooleanField()


class NewAgentSerializer(AgentChangeSerializer):
    slug = serializers.SlugField(max_length=64)

    OPTIONAL = frozenset(agents.FIELDS) - {"name", "model_order"}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in self.OPTIONAL:
            self.fields[name].required = False


class AgentSerializer(serializers.Serializer[Agent]):
    slug = serializers.CharField()
    name = serializers.CharField()
    description = serializers.CharField()
    persona = serializers.CharField()
    model_order = serializers.ListField(child=serializers.CharField())
    selection = serializers.ChoiceField(choices=Selection.choices)
    latency_objective_ms = serializers.IntegerField(allow_null=True)
    temperature = serializers.FloatField()
    max_tokens = serializers.IntegerField()
    context_tokens = serializers.IntegerField()
    collections = serializers.ListField(child=serializers.CharField())
    top_k = serializers.IntegerField(allow_null=True)
    abstains = serializers.BooleanField()
    voice = serializers.CharField()
    is_default = serializers.BooleanField()
    is_enabled = serializers.BooleanField()
    updated_at = serializers.DateTimeField()
    choices = serializers.SerializerMethodField(help_text="The models as they would be tried just now, and why.")

    @extend_schema_field(ModelChoiceSerializer(many=True))
    def get_choices(self, agent: Agent) -> list[dict[str, Any]]:
        return [dict(ModelChoiceSerializer(one).data) for one in agents.choices(agent)]


class AgentListSerializer(serializers.Serializer[Any]):
    agents = AgentSerializer(many=True)


class AgentsView(APIView):
    required_scopes = {"GET": Scope.QUERY, "POST": Scope.REGISTRY_WRITE}

    @extend_schema(operation_id="list_agents", tags=["agents"], responses=AgentListSerializer)
    def get(self, request: Request) -> Response:
        """Everybody who can be asked, the default first."""
        return Response(AgentListSerializer({"agents": Agent.objects.all()}).data)

    @extend_schema(
        operation_id="create_agent", tags=["agents"], request=NewAgentSerializer, responses={201: AgentSerializer}
    )
    def post(self, request: Request) -> Response:
        """Make an agent."""
        body = NewAgentSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        agent = agents.save_agent(Agent(**body.validated_data), principal_of(request))
        return Response(AgentSerializer(agent).data, status=201)


class AgentView(APIView):
    required_scopes = {"GET": Scope.QUERY, "PATCH": Scope.REGISTRY_WRITE, "DELETE": Scope.REGISTRY_WRITE}

    @extend_schema(operation_id="get_agent", tags=["agents"], responses=AgentSerializer)
    def get(self, request: Request, slug: str) -> Response:
        """One agent."""
        return Response(AgentSerializer(agents.get_agent(slug)).data)

    @extend_schema(
        operation_id="update_agent", tags=["agents"], request=AgentChangeSerializer, responses=AgentSerializer
    )
    def patch(self, request: Request, slug: str) -> Response:
        """Change an agent. What is left out stays."""
        agent = agents.get_agent(slug)
        body = AgentChangeSerializer(data=request.data, partial=True)
        body.is_valid(raise_exception=True)
        for name, value in body.validated_data.items():
            setattr(agent, name, value)
        return Response(AgentSerializer(agents.save_agent(agent, principal_of(request))).data)

    @extend_schema(operation_id="delete_agent", tags=["agents"], responses={204: None})
    def delete(self, request: Request, slug: str) -> Response:
        """Remove an agent. Answers that it gave stay."""
        agents.delete_agent(agents.get_agent(slug), principal_of(request))
        return Response(status=204)
