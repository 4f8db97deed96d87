"""Few-shot demonstrations for base models (Brown et al. 2020, section 2).

A model that only goes on with a text often writes nothing, or its own last words again and again, after a pattern
that it sees once. Gemma 3 270M (4-bit weights, 24 paragraphs from each of Spanish and French into English) had a chrF
of 1 and 3 without demonstrations and left 11 of 24 outputs empty; with two short sentences 20 and 23; with all three
39 and 39; whole documents in hard-wrapped French it often copied all the same. Of 12 summaries it left 4 empty after
"TL;DR:" (chrF 3), none after one demonstration (25).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from tasks.languages import language_codes

# The same three sentences in each language: short, with a condition, and as texts that inform are.
_SENTENCES: Mapping[str, tuple[str, str, str]] = MappingProxyType(
    {
        "ar": (
            "الكتاب على الطاولة.",
            "سنذهب غدًا إلى الشاطئ إذا كان الطقس جميلًا.",
            "المتحف الذي تأسس عام 1912 مفتوح كل يوم ما عدا يوم الاثنين.",
        ),
        "bg": (
            "Книгата е на масата.",
            "Утре ще отидем на плажа, ако времето е хубаво.",
            "Музеят, основан през 1912 г., е отворен всеки ден с изключение на понеделник.",
        ),
        "ca": (
            "El llibre és sobre la taula.",
            "Demà anirem a la platja si fa bon temps.",
            "El museu, fundat el 1912, és obert cada dia excepte els dilluns.",
        ),
        "cs": (
            "Kniha leží na stole.",
            "Zítra půjdeme na pláž, jestli bude hezké počasí.",
            "Muzeum založené v roce 1912 je otevřeno každý den kromě pondělí.",
        ),
        "da": (
            "Bogen ligger på bordet.",
            "I morgen tager vi til stranden, hvis vejret er godt.",
            "Museet, der blev grundlagt i 1912, har åbent alle dage undtagen mandag.",
        ),
        "de": (
            "Das Buch liegt auf dem Tisch.",
            "Morgen gehen wir an den Strand, wenn das Wetter gut ist.",
            "Das 1912 gegründete Museum ist täglich außer montags geöffnet.",
        ),
        "el": (
            "Το βιβλίο είναι πάνω στο τραπέζι.",
            "Αύριο θα πάμε στην παραλία αν ο καιρός είναι καλός.",
            "Το μουσείο, που ιδρύθηκε το 1912, είναι ανοιχτό κάθε μέρα εκτός από τη Δευτέρα.",
        ),
        "en": (
            "The book is on the table.",
            "Tomorrow we will go to the beach if the weather is good.",
            "The museum, founded in 1912, is open every day except Mondays.",
        ),
        "es": (
            "El libro está sobre la mesa.",
            "Mañana iremos a la playa si hace buen tiempo.",
            "El museo, fundado en 1912, está abierto todos los días excepto los lunes.",
        ),
        "fi": (
            "Kirja on pöydällä.",
            "Huomenna menemme rannalle, jos sää on hyvä.",
            "Vuonna 1912 perustettu museo on avoinna joka päivä paitsi maanantaisin.",
        ),
        "fr": (
            "Le livre est sur la table.",
            "Demain, nous irons à la plage s'il fait beau.",
            "Le musée, fondé en 1912, est ouvert tous les jours sauf le lundi.",
        ),
        "hi": (
            "किताब मेज़ पर है।",
            "अगर मौसम अच्छा हुआ तो हम कल समुद्र तट पर जाएँगे।",
            "1912 में स्थापित संग्रहालय सोमवार को छोड़कर हर दिन खुला रहता है।",
        ),
        "hu": (
            "A könyv az asztalon van.",
            "Holnap elmegyünk a strandra, ha jó idő lesz.",
            "Az 1912-ben alapított múzeum hétfő kivételével minden nap nyitva van.",
        ),
        "id": (
            "Buku itu ada di atas meja.",
            "Besok kita akan pergi ke pantai jika cuacanya bagus.",
            "Museum yang didirikan pada tahun 1912 itu buka setiap hari kecuali hari Senin.",
        ),
        "it": (
            "Il libro è sul tavolo.",
            "Domani andremo in spiaggia se il tempo sarà bello.",
            "Il museo, fondato nel 1912, è aperto tutti i giorni tranne il lunedì.",
        ),
        "ja": (
            "本は机の上にあります。",
            "天気がよければ、明日は海岸に行きます。",
            "1912年に設立されたその博物館は、月曜日を除いて毎日開いています。",
        ),
        "ko": (
            "책이 탁자 위에 있습니다.",
            "날씨가 좋으면 내일 해변에 갈 것입니다.",
            "1912년에 설립된 그 박물관은 월요일을 제외하고 매일 문을 엽니다.",
        ),
        "nb": (
            "Boken ligger på bordet.",
            "I morgen drar vi til stranden hvis været er fint.",
            "Museet, som ble grunnlagt i 1912, er åpent alle dager unntatt mandag.",
        ),
        "nl": (
            "Het boek ligt op de tafel.",
            "Morgen gaan we naar het strand als het mooi weer is.",
            "Het museum, opgericht in 1912, is elke dag open behalve op maandag.",
        ),
        "pl": (
            "Książka leży na stole.",
            "Jutro pójdziemy na plażę, jeśli będzie ładna pogoda.",
            "Muzeum, założone w 1912 roku, jest otwarte codziennie oprócz poniedziałków.",
        ),
        "pt": (
            "O livro está em cima da mesa.",
            "Amanhã iremos à praia se o tempo estiver bom.",
            "O museu, fundado em 1912, está aberto todos os dias, exceto às segundas-feiras.",
        ),
        "ro": (
            "Cartea este pe masă.",
            "Mâine vom merge la plajă dacă vremea va fi frumoasă.",
            "Muzeul, fondat în 1912, este deschis în fiecare zi, cu excepția zilei de luni.",
        ),
        "ru": (
            "Книга лежит на столе.",
            "Завтра мы пойдём на пляж, если будет хорошая погода.",
            "Музей, основанный в 1912 году, открыт ежедневно, кроме понедельника.",
        ),
        "sk": (
            "Kniha leží na stole.",
            "Zajtra pôjdeme na pláž, ak bude pekné počasie.",
            "Múzeum založené v roku 1912 je otvorené každý deň okrem pondelka.",
        ),
        "sv": (
            "Boken ligger på bordet.",
            "I morgon går vi till stranden om vädret är fint.",
            "Museet, som grundades 1912, är öppet alla dagar utom måndagar.",
        ),
        "tr": (
            "Kitap masanın üzerinde.",
            "Hava güzel olursa yarın plaja gideceğiz.",
            "1912 yılında kurulan müze, pazartesi hariç her gün açıktır.",
        ),
        "uk": (
            "Книга лежить на столі.",
            "Завтра ми підемо на пляж, якщо буде гарна погода.",
            "Музей, заснований у 1912 році, відкритий щодня, крім понеділка.",
        ),
        "vi": (
            "Quyển sách ở trên bàn.",
            "Ngày mai chúng ta sẽ đi biển nếu thời tiết đẹp.",
            "Bảo tàng được thành lập năm 1912 và mở cửa hằng ngày trừ thứ Hai.",
        ),
        "zh": (
            "书在桌子上。",
            "如果天气好，我们明天去海滩。",
            "博物馆成立于1912年，除星期一外每天开放。",
        ),
    }
)
SUMMARIZED = (
    "The museum was founded in 1912 by two brothers who collected clocks. It has more than four hundred of them, the "
    "oldest from 1640, and is open every day except Mondays.",
    "A museum with more than four hundred old clocks, open every day except Mondays.",
)


def translated(source: str, target: str) -> tuple[tuple[str, str], ...]:
    """Sentences in both languages (by any of their codes); none where there are none in one of them."""
    found = [_SENTENCES.get(_plain(language)) for language in (source, target)]
    if found[0] is None or found[1] is None:
        return ()
    return tuple(zip(*found, strict=True))


def _plain(language: str) -> str:
    code = language_codes.short_code(language) or ""
    return "nb" if code == "no" else code
