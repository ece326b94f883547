"""What topics' configs say about their leaders, remembered until a config changes."""

from penstock.broker.broker_config import BrokerConfig
from penstock.broker.config_table import parse, resolve
from penstock.broker.controller.elections import Rules
from penstock.broker.image import ClusterImage
from penstock.broker.topic_config import topic_config_definitions

MIN_INSYNC_REPLICAS = "min.insync.replicas"
UNCLEAN_ELECTION = "unclean.leader.election.enable"


class TopicRules:
    """The rules by topic. Only two configs are resolved: a broker's death asks for thousands of topics at once."""

    def __init__(self, config: BrokerConfig, image: ClusterImage) -> None:
        self._config = config
        self._image = image
        self._known: dict[str, Rules] = {}

    def forget(self, topic: str) -> None:
        """Look at a topic's configs again from now on."""
        self._known.pop(topic, None)

    def forget_all(self) -> None:
        """Look at all configs again from now on."""
        self._known.clear()

    def of(self, topic: str) -> Rules:
        """The rules of a topic, which need not exist."""
        rules = self._known.get(topic)
        if rules is None:
            rules = self._known[topic] = self._resolve(topic)
        return rules

    def _resolve(self, topic: str) -> Rules:
        image = self._image
        layers = self._config.topic_layers(
            image.topic_configs(topic), image.broker_configs(self._config.node_id), image.broker_configs(None)
        )
        definitions = topic_config_definitions()

        def value(name: str) -> object:
            definition = definitions[name]
            text = resolve(definition, layers).text
            assert text is not None
            return parse(definition, text)

        min_insync = value(MIN_INSYNC_REPLICAS)
        assert isinstance(min_insync, int)
        return Rules(min_insync, value(UNCLEAN_ELECTION) is True)
