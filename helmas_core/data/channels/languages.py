"""`languages`: facts and question in a language other than English; two of the languages are only met in test."""

from __future__ import annotations

import random
from dataclasses import dataclass

from helmas_core.data.channels.told import Form, Told, distinct, number, part, phrased, tell
from helmas_core.data.channels.words import NAMES, listed

PEOPLE = 3


@dataclass(frozen=True)
class Language:
    """Phrasings with a number, then with a word, each to learn from and of test; and the words."""

    numbers: tuple[tuple[Form, ...], tuple[Form, ...]]
    names: tuple[tuple[Form, ...], tuple[Form, ...]]
    words: tuple[str, ...]


LANGUAGES = {
    "de": Language(
        (
            (("{n} hat die Zimmernummer {v}.", "Welche Zimmernummer hat {n}?"),),
            (("{n} fährt mit der Linie {v}.", "Mit welcher Linie fährt {n}?"),),
        ),
        (
            (("Das Passwort von {n} lautet {v}.", "Wie lautet das Passwort von {n}?"),),
            (("{n} nennt das Boot {v}.", "Wie nennt {n} das Boot?"),),
        ),
        listed(
            "Löwe Krähe Schlüssel Brücke Apfel Würfel Fenster Gürtel Igel Käfer Mütze Nebel Pinsel Rübe "
            "Stiefel Teller Ufer Vogel Wiese Zwiebel Eimer Garten Hügel Löffel Möwe"
        ),
    ),
    "fr": Language(
        (
            (("{n} occupe la chambre {v}.", "Quelle chambre occupe {n} ?"),),
            (("{n} prend le bus {v}.", "Quel bus prend {n} ?"),),
        ),
        (
            (("Le mot de passe de {n} est {v}.", "Quel est le mot de passe de {n} ?"),),
            (("Le bateau de {n} s'appelle {v}.", "Comment s'appelle le bateau de {n} ?"),),
        ),
        listed(
            "fenêtre château rivière pêche écureuil tonnerre chèvre brouillard citron étoile hibou genou "
            "cerise lapin montagne neige oiseau papillon renard sable tambour vague cloche fourmi grenouille"
        ),
    ),
    "es": Language(
        (
            (("{n} tiene la habitación {v}.", "¿Qué habitación tiene {n}?"),),
            (("{n} toma el autobús {v}.", "¿Qué autobús toma {n}?"),),
        ),
        (
            (("La contraseña de {n} es {v}.", "¿Cuál es la contraseña de {n}?"),),
            (("El barco de {n} se llama {v}.", "¿Cómo se llama el barco de {n}?"),),
        ),
        listed(
            "ventana castillo araña camión lechuga relámpago cebolla pingüino tambor niebla árbol cuchara "
            "puente ratón sombrero tortuga cuchillo abeja ballena caracol estrella faro girasol hormiga "
            "jabón"
        ),
    ),
    "it": Language(
        (
            (("{n} ha la camera {v}.", "Quale camera ha {n}?"),),
            (("{n} prende l'autobus {v}.", "Quale autobus prende {n}?"),),
        ),
        (
            (("La password di {n} è {v}.", "Qual è la password di {n}?"),),
            (("La barca di {n} si chiama {v}.", "Come si chiama la barca di {n}?"),),
        ),
        listed(
            "finestra castello farfalla scoiattolo ombrello forchetta nuvola ciliegia gufo tamburo chiave "
            "zucca ponte cavallo specchio topo formica gelato isola lampada montagna orologio pesca stella "
            "vento"
        ),
    ),
    "pt": Language(
        (
            (),
            (("{n} está no quarto {v}.", "Em que quarto está {n}?"),),
        ),
        (
            (),
            (("A senha de {n} é {v}.", "Qual é a senha de {n}?"),),
        ),
        listed("janela castelo coração tubarão maçã colher nuvem abóbora esquilo trovão"),
    ),
    "ja": Language(
        (
            (),
            (("{n}さんの部屋番号は{v}です。", "{n}さんの部屋番号は何番ですか？"),),
        ),
        (
            (),
            (("{n}さんの合言葉は{v}です。", "{n}さんの合言葉は何ですか？"),),
        ),
        listed("さくら かえる とけい たぬき はさみ みかん つばめ きつね すいか ほたる"),
    ),
}


def languages(rng: random.Random, split: str) -> Told:
    forms = [
        (code, counted, form)
        for code, language in LANGUAGES.items()
        for counted, known in ((True, language.numbers), (False, language.names))
        for form in phrased(known, split)
    ]
    code, counted, form = rng.choice(forms)
    values = _numbers(rng, split) if counted else rng.sample(_words(code, split), PEOPLE)
    return tell(rng, form, list(zip(rng.sample(part(NAMES, split), PEOPLE), values, strict=True)), code)


def _numbers(rng: random.Random, split: str) -> list[str]:
    return distinct(PEOPLE, lambda: number(rng, split, rng.randint(2, 4)))


def _words(code: str, split: str) -> list[str]:
    """The split's words; all of a language that is only met in test."""
    learnt, words = LANGUAGES[code].names[0], LANGUAGES[code].words
    return part(words, split) if learnt else list(words)
