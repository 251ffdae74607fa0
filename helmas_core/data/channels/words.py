"""The word lists that channels draw names and values from; `told.part` deals them out to the splits."""

from __future__ import annotations


def listed(text: str) -> tuple[str, ...]:
    """The words of `text`, which is easier to read than a list of strings."""
    return tuple(text.split())


NAMES = listed(
    "Ada Boris Clara Dennis Edith Felix Greta Harold Ingrid Jonas Karin Leopold Martha Norman Olive Percy "
    "Quentin Rosalind Stefan Thea Ursula Victor Wanda Xavier Yvonne Zachary Agnes Bernard Cecily Duncan Elspeth "
    "Frederick Gwendolyn Hubert Imogen Jasper Katrina Lionel Mabel Nigel Octavia Patrick Regina Silas Tabitha "
    "Ulrich Veronica Wallace Yolanda Ambrose Beatrice Cedric Dorothea Ernest Florence Godfrey Hester Isidore "
    "Josephine Kenneth"
)

NOUNS = listed(
    "anchor basket candle dragon emerald falcon guitar hammer island jacket kettle lantern magnet needle orchid "
    "pepper quartz rocket saddle thimble umbrella velvet walnut yarn zebra acorn bucket cactus dagger engine "
    "feather goblet helmet ivory jungle knapsack lizard marble napkin otter pillow raven sandal tunnel urchin "
    "violin whistle almond beetle copper dolphin easel fossil ginger hazel iceberg jasmine kiwi lobster mango "
    "nutmeg onion parrot quiver ribbon scarf turnip vase willow amber bonnet cello dune ember fig glacier"
)

PLACES = listed(
    "Lisbon Oslo Cairo Quito Hanoi Tunis Dublin Bergen Kyoto Lima Riga Accra Turin Seville Osaka Porto Dakar "
    "Gdansk Nairobi Malmo Bogota Tbilisi Antwerp Manila Zagreb Havana Basel Jakarta Leeds Krakow Perth Cusco "
    "Ghent Izmir Sofia Tampere Utrecht Valencia Windhoek Yerevan Almaty Bilbao Cork Dundee Esbjerg Fez Geneva "
    "Haifa Innsbruck Jaipur Kiel Lyon Medina Naples Odessa Palermo Rabat Salerno Trondheim Uppsala"
)

MONTHS = listed("January February March April May June July August September October November December")

FIRST_NAMES = listed(
    "Xochitl Saoirse Nguyet Oyelaran Tjaart Anahit Bjarni Caoimhe Dzhokhar Eydis Fionnuala Guðrún Hüseyin Iñigo "
    "Jadwiga Kwabena Llywelyn Mbali Ndidi Ólafur Przemek Quetzal Rhiannon Sviatlana Thandeka Uilleam Vigdís "
    "Wojciech Ximena Ylva Zsófia Aoife Bülent Chidimma Đorđe Eilidh"
)

LAST_NAMES = listed(
    "Nahuatzin Ó-Braonáin Hoàng Adékúnlé Vilakazi Hakobyan Þórsson Ní-Dhomhnaill Tsarukyan Jökulsdóttir "
    "Mac-Giolla Kemaloğlu Etxeberria Szczepański Asantewaa Gwrtheyrn Dlamini Okonkwo Sigurðsson Brzęczyszcz Tlaloc "
    "Cadwaladr Kavaliova Mkhize Mac-Aoidh Eldjárn Gżegżółka Iturralde Söderqvist Szentgyörgyi Uí-Cheallaigh "
    "Gündoğdu Nwachukwu Živković Dòmhnallach Tchoupitoulas"
)
